"""Our results beside the paper's Table 1, cell by cell, each with our interval and a verdict.

The paper prints means of five sampling seeds of one trained model, with one digit and without intervals. So the
question asked of each cell is whether its number, give or take its rounding, lies in our 95 % interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.project.errors import DataError
from distill.project.settings import read_yaml
from distill.scoring.names import TEACHER, label
from distill.scoring.tables import Cell, ResultTable, TableRow

TABLE = Path(__file__).with_name("paper_table.yaml")

Verdict = Literal["within", "above", "below", "too few prompts"]
_SIGNS: dict[Verdict, str] = {"within": "≈", "above": "▲", "below": "▼", "too few prompts": "?"}
_METRICS = {"rouge_l": "", "judge": ", judge"}
# A printed 24.6 stands for anything from 24.55 to 24.65.
_ROUNDING = 0.05


@dataclass(frozen=True)
class Paper:
    """Table 1 and who is who in it."""

    source: str
    sets: Mapping[str, Mapping[str, str]]
    """Our evaluation set → our metric → the paper's column."""
    students: Mapping[str, Mapping[str, str]]
    """Our student → `student` and `teacher` in the paper."""
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]
    """The paper's model → method → column → number."""

    def number(self, student: str, model: str, dataset: str, metric: str) -> float | None:
        """The paper's number for one of our cells, None where it has none."""
        column = self.sets.get(dataset, {}).get(metric)
        who = self.students[student][TEACHER if model == TEACHER else "student"]
        return self.rows[who].get(model, {}).get(column) if column else None


def read_paper(path: Path = TABLE) -> Paper:
    """Read the table. Raises: DataError when a row has more or fewer numbers than there are columns."""
    content = read_yaml(path)
    columns = content["columns"]
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for who, methods in content["rows"].items():
        for method, numbers in methods.items():
            if len(numbers) != len(columns):
                raise DataError(f"{path}: rows.{who}.{method} needs {len(columns)} numbers; correct it")
            rows.setdefault(who, {})[method] = dict(zip(columns, numbers, strict=True))
    return Paper(content["source"], content["sets"], content["students"], rows)


@dataclass(frozen=True)
class Compared:
    """One cell: the paper's number and ours."""

    model: str
    dataset: str
    metric: str
    paper: float
    ours: float
    interval: tuple[float, float]
    few: bool = False
    """Ours is of too few prompts for its interval to be believed."""

    @property
    def verdict(self) -> Verdict:
        """Whether we are above or below the paper's number by more than our interval and its rounding allow."""
        if self.few:
            return "too few prompts"
        low, high = self.interval
        if low > self.paper + _ROUNDING:
            return "above"
        return "below" if high < self.paper - _ROUNDING else "within"


def compare(paper: Paper, student: str, results: Mapping[str, Any]) -> Iterator[Compared]:
    """Every cell of results/<student>.json that the paper has too; `student` must be one of `paper.students`."""
    for model, by_set in results.items():
        for dataset, cell in by_set.items():
            for metric in _METRICS:
                number = paper.number(student, model, dataset, metric)
                score = cell.get(metric, {}) if number is not None else {}
                # Rouge-L of other words is no number to hold beside the paper's.
                if number is not None and "ci95" in score and "words" not in score:
                    low, high = score["ci95"]
                    yield Compared(model, dataset, metric, number, score["mean"], (low, high), "prompts" in score)


def build(paper: Paper, student: str, results: Mapping[str, Any], labels: Mapping[str, str]) -> ResultTable | None:
    """A table of one student, None where it and the paper share no cell."""
    found = {(c.model, c.dataset, c.metric): c for c in compare(paper, student, results)}
    if not found:
        return None
    columns = list(dict.fromkeys((dataset, metric) for _, dataset, metric in found))
    models = list(dict.fromkeys(model for model, _, _ in found))
    who = paper.students[student]
    rows = [
        TableRow(
            labels.get(model) or label(model), tuple(_cell(found.get((model, *column))) for column in columns), student
        )
        for model in models
    ]
    counts = Counter(compared.verdict for compared in found.values())
    notes = [
        f"Ours [95 % interval] / {paper.source}. {_SIGNS['within']} its number lies in our interval, "
        f"{_SIGNS['above']} ours is above it, {_SIGNS['below']} below it.",
        f"{counts['within']} within, {counts['above']} above, {counts['below']} below, of {len(found)} cells.",
        "The interval is of prompts and sampling seeds of one trained model; another training seed moves both sides.",
    ]
    if counts["too few prompts"]:
        notes.append(f"? {counts['too few prompts']} cells have too few prompts for their interval to say anything.")
    if any(metric == "judge" for _, metric in columns):
        notes.append("The paper's judge is GPT-4, its prompt not printed whole: scores of judges compare loosely.")
    return ResultTable(
        title=f"{student}: {who['student']} of {who[TEACHER]}",
        columns=tuple(f"{dataset}{_METRICS[metric]}" for dataset, metric in columns),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _cell(compared: Compared | None) -> Cell:
    if compared is None:
        return Cell("–")
    low, high = compared.interval
    return Cell(f"{compared.ours:.1f} [{low:.1f}, {high:.1f}] / {compared.paper:.1f}", sign=_SIGNS[compared.verdict])
