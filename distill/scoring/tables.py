"""The results table as in the paper, teacher and methods down, evaluation sets across: Markdown or screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.project.errors import DataError
from distill.project.files import read_json
from distill.project.settings import read_yaml
from distill.scoring.results import KL, REFERENCE_METHOD, TEACHER, Experiment, read_experiment

if TYPE_CHECKING:
    from rich.table import Table as RichTable

START_MARK = "<!-- results:start -->"
END_MARK = "<!-- results:end -->"

# how the literature writes the names; a method that is not here keeps its own
_LABELS = {
    "teacher": "Teacher",
    "sft": "SFT",
    "kd": "KD",
    "seqkd": "SeqKD",
    "minillm": "MiniLLM",
    "seqkd_multi": "SeqKD × k samples",
    "single_step": "Single-step KL",
}
_SIGNS = {"better": "▼", "worse": "▲", "not distinguishable": "≈"}


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    text: str
    best: bool = False
    """The best student of the column."""
    sign: str = ""
    """How this model stands to MiniLLM: ▼ below it, ▲ above it, ≈ not distinguishable."""

    @property
    def signed(self) -> str:
        """The text and the sign."""
        return f"{self.text} {self.sign}".strip()


@dataclass(frozen=True)
class Table:
    """A table ready to be drawn in any medium."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...]


def label(model: str) -> str:
    """The name of a model as the literature writes it."""
    return _LABELS.get(model, model)


def _score_column(
    name: str, experiment: Experiment, metrics: Mapping[str, Any], verdicts: Mapping[str, Any]
) -> list[Cell]:
    means = {model: metrics[model][name]["rouge_l"]["mean"] for model in experiment.models}
    # compared as printed: two students that read the same are both the best
    shown = {model: f"{mean:.1f}" for model, mean in means.items()}
    best = shown[max(experiment.methods, key=lambda method: means[method])] if experiment.methods else ""
    cells = []
    for model in experiment.models:
        verdict = verdicts.get(model, {}).get(name, {}).get("verdict", "")
        std = metrics[model][name]["rouge_l"]["std"]
        is_best = model != TEACHER and shown[model] == best
        cells.append(Cell(f"{shown[model]} ± {std:.1f}", is_best, _SIGNS.get(verdict, "")))
    return cells


def _divergence_column(experiment: Experiment, metrics: Mapping[str, Any]) -> list[Cell]:
    shown = {
        model: f"{metrics[model][KL]['reverse_kl']['mean']:.2f}"
        for model in experiment.models
        if "reverse_kl" in metrics[model].get(KL, {})
    }
    best = min((text for model, text in shown.items() if model != TEACHER), key=float, default="")
    return [Cell(shown.get(m, "–"), m != TEACHER and shown.get(m) == best) for m in experiment.models]


def build(experiment: Experiment, metrics: Mapping[str, Any], significance: Mapping[str, Any], note: str = "") -> Table:
    """The table of one student from its results and verdicts; `note` is printed below it.

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
    verdicts = significance.get(REFERENCE_METHOD, {})
    columns = [_score_column(name, experiment, metrics, verdicts) for name in experiment.sets]
    titles = [*experiment.sets]
    if any(KL in metrics[model] for model in experiment.models):
        columns.append(_divergence_column(experiment, metrics))
        titles.append("reverse KL")
    seeds = max(len(metrics[model][name]["rouge_l"]["per_seed"]) for model in metrics for name in experiment.sets)
    notes = [f"Rouge-L, mean ± standard deviation over {seeds} sampling seed{'s' if seeds > 1 else ''}"]
    notes[0] += "; the best student in bold."
    if "reverse KL" in titles:
        notes.append("Reverse KL to the teacher on the model's own samples, nats a token; lower is closer.")
    if verdicts:
        notes.append(
            "Against MiniLLM on the same prompts (paired bootstrap, 95 %): "
            "▼ below it, ▲ above it, ≈ not distinguishable."
        )
    return Table(
        title=f"{experiment.student} ({experiment.family})",
        columns=tuple(titles),
        rows=tuple(
            (label(model), tuple(column[row] for column in columns)) for row, model in enumerate(experiment.models)
        ),
        notes=(*notes, *([note] if note else [])),
    )


def read(student: str, root: Path) -> Table:
    """The table of one student, from params.yaml, `recipe.note` of its profile and results/ below `root`."""
    experiment = read_experiment(root / "params.yaml", student)
    recipe = read_yaml(root / "profiles" / f"{experiment.family}.yaml").get("recipe", {})
    return build(
        experiment,
        read_json(root / "results" / f"{student}.json"),
        read_json(root / "results" / f"{student}.significance.json"),
        note=str(recipe.get("note") or "").strip(),
    )


def to_markdown(table: Table) -> str:
    """The table and its notes as GitHub Markdown."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [line([table.title, *table.columns]), line(["---", *["---:"] * len(table.columns)])]
    for name, cells in table.rows:
        texts = [f"**{cell.text}** {cell.sign}".strip() if cell.best else cell.signed for cell in cells]
        lines.append(line([name, *texts]))
    return "\n".join([*lines, "", *("  \n".join(table.notes)).split("\n")]) + "\n"


def to_rich(table: Table) -> RichTable:
    """The table for a terminal, without its notes."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(table.title))
    drawn.add_column("")
    for column in table.columns:
        drawn.add_column(Text(column), justify="right")
    for name, cells in table.rows:
        drawn.add_row(Text(name), *(Text(cell.signed, style="bold green" if cell.best else "") for cell in cells))
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
