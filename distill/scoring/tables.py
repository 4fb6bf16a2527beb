"""The results table as in the paper, teacher and methods down, evaluation sets across: Markdown or screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.judging.summary import shown as judged
from distill.project.errors import DataError
from distill.project.settings import read_yaml
from distill.scoring.names import KL, REFERENCE_METHOD, TEACHER
from distill.scoring.results import StudentTable, read_student
from distill.scoring.spread import with_spread
from distill.scoring.statistics import FEWEST_PROMPTS
from distill.scoring.stored import read_metrics, read_verdicts
from distill.scoring.trust import BOTH_GUESS

if TYPE_CHECKING:
    from rich.table import Table as RichTable

START_MARK = "<!-- results:start -->"
END_MARK = "<!-- results:end -->"

SIGNS = {"better": "▲", "worse": "▼", "not distinguishable": "≈", "too few prompts": "?", BOTH_GUESS: "∅"}
"""What stands behind a cell, by the verdict on its row's model."""
_SAID = 0.01  # share of answers, as that of references in distill/text/words.py


@dataclass(frozen=True)
class Cell:
    """One entry of a table."""

    text: str
    best: bool = False
    """The best student of the column."""
    sign: str = ""
    """How this model stands to the one compared with, of `SIGNS`."""
    detail: str = ""
    """Said where there is room: the 95 % interval."""
    tone: str = ""
    """`good` or `bad` where a verdict is one."""
    mark: str = ""
    """✓ where the paper found the same, ✗ where it found the opposite."""

    @property
    def signed(self) -> str:
        """The text and the sign."""
        return f"{self.text} {self.sign}".strip()


@dataclass(frozen=True)
class TableRow:
    """One line of a table."""

    name: str
    cells: tuple[Cell, ...]
    group: str = ""
    """The student whose method it is, in a table of several."""
    section: str = ""
    """The heading it stands under, where rows have headings."""
    model: str = ""
    """The model's name in paths."""


@dataclass(frozen=True)
class ResultTable:
    """A table ready to be drawn in any medium."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    against: str = ""
    """The one of the notes that says what signs mean, and against which model."""


def turned(verdict: str) -> str:
    """The verdict on a row's model: the results' own speaks of the reference, minus that model."""
    return {"better": "worse", "worse": "better"}.get(verdict, verdict)


def _score_column(
    name: str, experiment: StudentTable, metrics: Mapping[str, Any], verdicts: Mapping[str, Any]
) -> list[Cell]:
    means = {model: metrics[model][name]["rouge_l"]["mean"] for model in experiment.models}
    # compared as printed: two students that read the same are both the best
    shown = {model: f"{mean:.1f}" for model, mean in means.items()}
    best = shown[max(experiment.methods, key=lambda method: means[method])] if experiment.methods else ""
    cells = []
    for model in experiment.models:
        verdict = turned(verdicts.get(model, {}).get(name, {}).get("verdict", ""))
        score = metrics[model][name]["rouge_l"]
        is_best = model != TEACHER and shown[model] == best
        cells.append(Cell(with_spread(score, 1), is_best, SIGNS.get(verdict, ""), _interval(score, 1)))
    return cells


def _interval(entry: Mapping[str, Any], digits: int) -> str:
    """`[low, high]`, empty where there is none."""
    return f"[{', '.join(f'{bound:.{digits}f}' for bound in entry['ci95'])}]" if "ci95" in entry else ""


def _judge_column(experiment: StudentTable, metrics: Mapping[str, Any], name: str) -> list[Cell]:
    cells = [metrics[model][name].get("judge", {}) for model in experiment.models]
    return [
        Cell(judged(metrics[model][name]), detail=_interval(cell, 1))
        for model, cell in zip(experiment.models, cells, strict=True)
    ]


def _divergence_column(experiment: StudentTable, metrics: Mapping[str, Any]) -> list[Cell]:
    found = {model: metrics[model][KL]["reverse_kl"] for model in experiment.models if KL in metrics[model]}
    texts = {model: f"{entry['mean']:.2f}" for model, entry in found.items()}
    best = min((text for model, text in texts.items() if model != TEACHER), key=float, default="")
    return [
        Cell(texts[m], m != TEACHER and texts[m] == best, detail=_interval(found[m], 2)) if m in found else Cell("–")
        for m in experiment.models
    ]


def build(
    experiment: StudentTable,
    metrics: Mapping[str, Any],
    significance: Mapping[str, Any],
    note: str = "",
    reference: str = REFERENCE_METHOD,
    reference_label: str = "",
) -> ResultTable:
    """The table of one student from its results and its verdicts against `reference`; `note` is printed below it.

    Raises: DataError when the results lack a model or set that params.yaml names.
    """
    absent = [
        f"{model}.{name}"
        for model in experiment.models
        for name in experiment.sets
        if name not in metrics.get(model, {})
    ]
    if absent:
        raise DataError(f"results/{experiment.student}.json lacks {', '.join(absent)}; run `dvc repro`")
    experiment = experiment.measured(metrics)
    verdicts = significance.get(reference, {})
    columns, titles = [], []
    for name in experiment.sets:
        columns.append(_score_column(name, experiment, metrics, verdicts))
        titles.append(experiment.set_name(name))
        if name in experiment.judged:
            columns.append(_judge_column(experiment, metrics, name))
            titles.append(f"{name}, judge")
    if any(KL in metrics[model] for model in experiment.models):
        columns.append(_divergence_column(experiment, metrics))
        titles.append("reverse KL")
    seeds = max(len(metrics[model][name]["rouge_l"]["per_seed"]) for model in metrics for name in experiment.sets)
    spread = f"mean ± standard deviation over {seeds} sampling seeds" if seeds > 1 else "of one sampling seed"
    notes = [f"Rouge-L, {spread}; the best student in bold.", *_legibility_notes(experiment, metrics)]
    if "reverse KL" in titles:
        notes.append("Reverse KL to the teacher on the model's own samples, nats a token; lower is closer.")
    if experiment.judged:
        notes.append("Judge: the model's scores over the references' × 100, by an LLM.")
    against = ""
    if verdicts:
        against = (
            f"Against {reference_label or experiment.label(reference)} on the same prompts (paired bootstrap, 95 %): "
        )
        against += "▼ below it, ▲ above it, ≈ not distinguishable" + rare_signs(
            entry.get(name, {}) for entry in verdicts.values() for name in experiment.sets
        )
        notes.append(against)
    return ResultTable(
        title=f"{experiment.student} ({experiment.family})",
        columns=tuple(titles),
        rows=tuple(
            TableRow(
                experiment.label(model),
                tuple(column[row] for column in columns),
                "" if model == TEACHER else experiment.student,
            )
            for row, model in enumerate(experiment.models)
        ),
        notes=(*notes, *([note] if note else [])),
        against=against,
    )


def rare_signs(entries: Iterable[Mapping[str, Any]]) -> str:
    """The end of a legend: what `?` and `∅` mean, where one of the comparisons bears them."""
    found = {entry.get("verdict") for entry in entries}
    few = f", ? the models differ at fewer than {FEWEST_PROMPTS} prompts: no test can tell"
    guess = ", ∅ not judged, for both read the references no better than guessing"
    return (few if "too few prompts" in found else "") + (guess if BOTH_GUESS in found else "") + "."


def _legibility_notes(experiment: StudentTable, metrics: Mapping[str, Any]) -> list[str]:
    """What Rouge-L counts as words where it is not the paper's, and what it cannot read."""
    scores = {name: [metrics[model][name]["rouge_l"] for model in experiment.models] for name in experiment.sets}
    notes = []
    if experiment.words:
        notes.append("Rouge-L (Unicode): over words of any script, no figure of the paper's.")
    for name, own in scores.items():
        found = [score["unread"] for score in own if "unread" in score]
        references = max((each["references"] for each in found), default=0)
        answers = max((each["answers"] / each["of_answers"] for each in found if each["of_answers"]), default=0.0)
        if references:
            notes.append(f"Rouge-L cannot read {references:,} of {found[0]['of_references']:,} references of `{name}`.")
        for model in experiment.models:
            loss = metrics[model][name].get("loss", {})
            if "guessing" in loss:
                notes.append(
                    f"{experiment.label(model)} reads the references of `{name}` no better than guessing "
                    f"({loss['mean']:.2f} nats a token, guessing {loss['guessing']:.2f}): its answers are babble."
                )
        if answers >= _SAID:
            notes.append(f"Rouge-L cannot read up to {100 * answers:.0f} % of a model's answers to `{name}`.")
    return notes


def read(student: str, root: Path) -> ResultTable:
    """The table of one student, from params.yaml, `recipe.note` of its profile and results/ below `root`."""
    experiment = read_student(root / "params.yaml", student)
    recipe = read_yaml(root / "profiles" / f"{experiment.family}.yaml").get("recipe", {})
    return build(
        experiment,
        read_metrics(root / "results" / f"{student}.json"),
        read_verdicts(root / "results" / f"{student}.significance.json"),
        note=str(recipe.get("note") or "").strip(),
    )


def combine(tables: Sequence[ResultTable]) -> ResultTable:
    """The tables of several students of one family as one, as in the paper: the teacher, then student by student."""
    first = tables[0]
    rows = [row for number, table in enumerate(tables) for row in table.rows if row.group or number == 0]
    return replace(first, title=first.title if len(tables) == 1 else "", rows=tuple(rows))


def to_markdown(table: ResultTable, details: bool = False) -> str:
    """The table and its notes as GitHub Markdown; `details` puts intervals into the cells."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    groups = {row.group for row in table.rows if row.group}
    lines = [line([table.title, *table.columns]), line(["---", *["---:"] * len(table.columns)])]
    above = ("", "")
    for row in table.rows:
        if row.section and (row.group, row.section) != above:
            lines.append(line([f"*{row.section}*", *[""] * len(table.columns)]))
        above = (row.group, row.section)
        texts = [_markdown_cell(cell, details) for cell in row.cells]
        name = f"{row.group} · {row.name}" if row.group and len(groups) > 1 else row.name
        lines.append(line([name.replace("|", "\\|"), *texts]))
    return "\n".join([*lines, "", *("  \n".join(table.notes)).split("\n")]) + "\n"


def _markdown_cell(cell: Cell, details: bool) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return " ".join(part for part in (text, cell.detail if details else "", cell.sign, cell.mark) if part)


def to_rich(table: ResultTable) -> RichTable:
    """The table for a terminal, without its notes."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(table.title))
    drawn.add_column("")
    for column in table.columns:
        drawn.add_column(Text(column), justify="right")
    for row in table.rows:
        cells = (Text(cell.signed, style="bold green" if cell.best else "") for cell in row.cells)
        drawn.add_row(Text(row.name), *cells)
    return drawn


def replace_between_marks(document: str, content: str) -> str:
    """The document with what stands between the two result marks replaced by `content`.

    Raises: DataError unless each mark occurs once, in order.
    """
    before, start, rest = document.partition(START_MARK)
    _, end, after = rest.partition(END_MARK)
    if not (start and end) or document.count(START_MARK) > 1 or document.count(END_MARK) > 1:
        raise DataError(f"there is no place for the table; add one line {START_MARK} and below it one {END_MARK}")
    return f"{before}{start}\n{content.strip()}\n{end}{after}"
