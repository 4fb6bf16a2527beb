"""The report of all students as one HTML page that opens offline, and its twin in Markdown.

Text of models and data goes through jinja2's escaping, or stands in a block of JSON that the page's script turns
into text nodes: a response `<script>` is shown, not run. The page loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.judging.summary import NOT_JUDGED
from distill.scoring import analysis_plots, numbers, plots, rosters, tables, verdicts
from distill.scoring.drawing import Chart
from distill.scoring.looks import Style, styles
from distill.scoring.names import EXPOSURE
from distill.scoring.provenance import Provenance
from distill.scoring.results import StudentTable
from distill.scoring.rosters import Roster, arranged
from distill.scoring.samples import as_script
from distill.scoring.tables import ResultTable

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Student:
    """Everything the page shows of one student."""

    experiment: StudentTable
    roster: Roster
    summary: Mapping[str, Any]
    """The content of analyses/<student>/summary.json."""
    directions: Sequence[str]
    scores: Sequence[Chart]
    curves: Sequence[Chart]
    more_curves: Sequence[Chart]
    analyses: Mapping[str, Sequence[Chart]]
    by_analysis: Sequence[ResultTable]
    by_set: Sequence[ResultTable]

    @property
    def references(self) -> list[str]:
        """The models that a reader may compare the others with."""
        return rosters.references(self.roster, self.summary["significance"])

    @property
    def comparisons(self) -> list[Mapping[str, Any]]:
        """Every paired test."""
        return list(verdicts.entries(self.summary["significance"]))

    @property
    def verdict_notes(self) -> tuple[str, ...]:
        """What stands below the paired tests."""
        return verdicts.notes(self.summary["significance"])

    @property
    def as_released(self) -> bool:
        """Whether ExAccErr by the definition of the authors' code is there too."""
        metrics = self.summary["metrics"]
        return any("error_as_released" in metrics[model].get(EXPOSURE, {}) for model in metrics)

    @property
    def looks(self) -> Mapping[str, Style]:
        """The look of each model in the charts."""
        return styles(self.roster)

    def table(self, reference: str) -> ResultTable:
        """The results, with signs against `reference`."""
        metrics, significance, note = (self.summary[part] for part in ("metrics", "significance", "note"))
        name = self.roster.label(reference)
        table = tables.build(self.experiment, metrics, significance, note, reference, name)
        table = replace(table, notes=(*table.notes, *self.summary.get("doubts", ())))
        return arranged(table, self.experiment, self.roster)

    def verdicts(self, reference: str) -> list[ResultTable]:
        """The paired tests against `reference`; none where there are no comparisons at all."""
        return verdicts.build(self.experiment, self.roster, self.summary["significance"], reference)


def student(
    experiment: StudentTable, summary: Mapping[str, Any], curves: Mapping[str, Mapping[str, plots.Curve]]
) -> Student:
    """What analyses/<student>/summary.json and the training curves say of one student, drawn."""
    metrics, roster = summary["metrics"], rosters.read(experiment, summary)
    experiment = experiment.measured(metrics)
    first = {name: curves[name] for name in curves if name in plots.QUANTITIES}
    rest = {name: curves[name] for name in curves if name not in plots.QUANTITIES}
    return Student(
        experiment=experiment,
        roster=roster,
        summary=summary,
        directions=verdicts.directions(experiment, roster, summary["significance"]),
        scores=plots.score_charts(experiment, roster, metrics),
        curves=plots.curve_charts(experiment, roster, first),
        more_curves=plots.curve_charts(experiment, roster, rest),
        analyses=analysis_plots.charts(experiment, roster, summary),
        by_analysis=numbers.in_parts(arranged(numbers.by_analysis(experiment, metrics), experiment, roster)),
        by_set=[arranged(numbers.by_set(experiment, metrics, name), experiment, roster) for name in experiment.sets],
    )


def offered(students: Sequence[Student]) -> dict[str, str]:
    """The models that a reader may pick to compare the others with, and their labels."""
    return {name: each.roster.label(name) for each in students for name in each.references}


def by_family(students: Sequence[Student], reference: str) -> list[tuple[str, ResultTable]]:
    """The results table of each family, with signs against `reference`."""
    families: dict[str, list[ResultTable]] = {}
    for each in students:
        families.setdefault(each.experiment.family, []).append(each.table(reference))
    return [(family, tables.combine(own)) for family, own in families.items()]


def repainted(students: Sequence[Student]) -> dict[str, Any]:
    """What the page's script puts into the tables when a reader picks another model to compare with.

    Student → reference → `signs`, model → a sign for each column of the results; and `parts`, the tables of the paired
    tests, each as model → cells, which are `[text, sign, detail, tone, mark]`.
    """
    return {
        each.experiment.student: {
            reference: {
                "signs": {row.model: [cell.sign for cell in row.cells] for row in each.table(reference).rows},
                "parts": [
                    {row.model: [[c.text, c.sign, c.detail, c.tone, c.mark] for c in row.cells] for row in table.rows}
                    for table in each.verdicts(reference)
                ],
            }
            for reference in each.references
        }
        for each in students
    }


def judged(students: Sequence[Student]) -> str:
    """The sets that an LLM judged, or that none was."""
    sets = dict.fromkeys(name for each in students for name in each.experiment.judged)
    return f"LLM judge: {', '.join(sets)}." if sets else f"LLM judge: {NOT_JUDGED}."


def render(students: Sequence[Student], samples: Mapping[str, Any], provenance: Provenance) -> str:
    """The whole page; the same input gives the same bytes."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((_FOLDER / "page.html.j2").read_text(encoding="utf-8"))
    names = offered(students)
    reference = rosters.first_reference(list(names))
    data = {**samples, "references": list(names.items()), "reference": reference, "compared": repainted(students)}
    page = template.render(
        students=students,
        names=names,
        reference=reference,
        families=by_family(students, reference),
        rare_signs=tables.rare_signs(entry for each in students for entry in each.comparisons),
        judged=judged(students),
        data=as_script(data),
        provenance=provenance,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
    )
    return page + "\n"


def to_markdown(students: Sequence[Student], provenance: Provenance) -> str:
    """The report for a README or a pull request: tables and provenance, no charts and no responses."""
    parts, names = ["# Results"], offered(students)
    reference = rosters.first_reference(list(names))
    for _, table in by_family(students, reference):
        parts.append(tables.to_markdown(table, details=True))
    parts.append(judged(students))
    for each in students:
        name = each.experiment.student
        if reference in each.references:
            parts.append(f"## {name}: paired tests against {names[reference]}")
            parts += [tables.to_markdown(table, details=True) for table in each.verdicts(reference)]
            parts.append("  \n".join(each.verdict_notes))
        if each.directions:
            parts.append("\n".join(f"- {sentence}" for sentence in each.directions))
        parts += [f"## {name}: analyses", *(tables.to_markdown(table, details=True) for table in each.by_analysis)]
        parts += [tables.to_markdown(replace(table, notes=())) for table in each.by_set]
        parts += list(each.by_set[0].notes) if each.by_set else []
    parts += ["## Provenance", _provenance(provenance)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _provenance(provenance: Provenance) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    lines = [f"Code {provenance.revision or 'outside git'}; {versions}.", ""]
    lines += ["| run | seconds | CPU seconds | MiB | device | code |", "| --- | ---: | ---: | ---: | --- | --- |"]
    lines += [
        f"| {run.name} | {run.seconds:.0f} | {run.cpu_seconds:.0f} | {run.memory_mib:.0f} | {run.device} "
        f"| {run.revision} |"
        for run in provenance.runs
    ]
    lines += ["", "| data | rows | SHA-256 |", "| --- | ---: | --- |"]
    lines += [f"| {file.path} | {file.rows or ''} | `{file.sha256[:16]}` |" for file in provenance.data]
    return "\n".join(lines)
