"""The report of all students as one HTML page that opens offline, and its twin in Markdown.

Text of models and data goes through jinja2's escaping, or stands in a block of JSON that the page's script turns
into text nodes: a response `<script>` is shown, not run. The page loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.judging.summary import NOT_JUDGED
from distill.scoring import analysis_plots, numbers, plots, tables, verdicts
from distill.scoring.drawing import Chart, colors
from distill.scoring.names import label
from distill.scoring.provenance import Provenance
from distill.scoring.results import StudentTable
from distill.scoring.samples import as_script
from distill.scoring.tables import ResultTable

_TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Student:
    """Everything the page shows of one student."""

    experiment: StudentTable
    table: ResultTable
    verdicts: ResultTable | None
    directions: Sequence[str]
    scores: Sequence[Chart]
    curves: Sequence[Chart]
    more_curves: Sequence[Chart]
    analyses: Mapping[str, Sequence[Chart]]
    by_analysis: ResultTable
    by_set: Sequence[ResultTable]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Name and colour of each model."""
        palette = colors(self.experiment.methods)
        return [(label(model), palette[model]) for model in self.experiment.models]


def student(
    experiment: StudentTable, summary: Mapping[str, Any], curves: Mapping[str, Mapping[str, plots.Curve]]
) -> Student:
    """What analyses/<student>/summary.json and the training curves say of one student, drawn."""
    metrics, significance = summary["metrics"], summary["significance"]
    return Student(
        experiment=experiment,
        table=tables.build(experiment, metrics, significance, note=summary["note"]),
        verdicts=verdicts.build(experiment, significance),
        directions=verdicts.directions(experiment, significance),
        scores=plots.score_charts(experiment, metrics),
        curves=plots.curve_charts(experiment, {name: curves[name] for name in curves if name in plots.QUANTITIES}),
        more_curves=plots.curve_charts(
            experiment, {name: curves[name] for name in curves if name not in plots.QUANTITIES}
        ),
        analyses=analysis_plots.charts(experiment, summary),
        by_analysis=numbers.by_analysis(experiment, metrics),
        by_set=[numbers.by_set(experiment, metrics, name) for name in experiment.sets],
    )


def by_family(students: Sequence[Student]) -> list[tuple[str, ResultTable]]:
    """The results table of each family."""
    families: dict[str, list[ResultTable]] = {}
    for each in students:
        families.setdefault(each.experiment.family, []).append(each.table)
    return [(family, tables.combine(own)) for family, own in families.items()]


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
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        students=students,
        families=by_family(students),
        judged=judged(students),
        samples=as_script(samples),
        provenance=provenance,
    )
    return page + "\n"


def to_markdown(students: Sequence[Student], provenance: Provenance) -> str:
    """The report for a README or a pull request: tables and provenance, no charts and no responses."""
    parts = ["# Results"]
    for _, table in by_family(students):
        parts.append(tables.to_markdown(table, details=True))
    parts.append(judged(students))
    for each in students:
        name = each.experiment.student
        if each.verdicts is not None:
            parts += [f"## {name}: paired tests", tables.to_markdown(each.verdicts, details=True)]
        if each.directions:
            parts.append("\n".join(f"- {sentence}" for sentence in each.directions))
        parts += [f"## {name}: analyses", tables.to_markdown(each.by_analysis, details=True)]
        parts += [tables.to_markdown(table) for table in each.by_set]
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
