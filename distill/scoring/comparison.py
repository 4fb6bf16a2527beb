"""The comparison of the project with an earlier commit: for a terminal, as Markdown, and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.scoring.changes import VERDICTS, Change, Value

_STYLES = {"worse": "bold red", "better": "green", "changed": "yellow", "within noise": "dim"}


@dataclass(frozen=True)
class CommitComparison:
    """The working tree against a commit."""

    commit: str
    """The commit in words: `a1b2c3d Raise the learning rate`."""
    metrics: Sequence[Change]
    """Those that differ."""
    settings: Mapping[str, tuple[Any, Any]]
    """`file: key` → (old, new)."""
    data: Sequence[str]
    """Data that differ."""
    code: Mapping[str, str]
    """Source files that differ → by how many lines."""
    stale: int
    """Stages that DVC would run now: the results are not those of this code and these settings."""

    @property
    def worse(self) -> list[Change]:
        """Metrics that got worse by more than noise."""
        return [change for change in self.metrics if change.verdict == "worse"]

    @property
    def ordered(self) -> list[Change]:
        """The metrics, those first that a reader should see."""
        return sorted(self.metrics, key=lambda change: VERDICTS.index(change.verdict))

    @property
    def headline(self) -> str:
        """`1 worse, 4 better, 20 within noise`."""
        counts = Counter(change.verdict for change in self.metrics)
        return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) or "no metric differs"

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the table."""
        warnings = []
        if self.stale:
            warnings.append(
                f"{self.stale} stage(s) are out of date: the new values are not yet those of this code and these "
                "settings; run `dvc repro` first."
            )
        if self.metrics:
            warnings.append(
                "Noise is that of prompts and sampling seeds; training with another seed moves the numbers too."
            )
        return warnings


def _rows(comparison: CommitComparison) -> list[tuple[str, str, str, str, str]]:
    return [
        (change.name, str(change.old or "–"), str(change.new or "–"), _difference(change), change.verdict)
        for change in comparison.ordered
    ]


def _difference(change: Change) -> str:
    if change.old is None or change.new is None:
        return ""
    interval = change.interval
    spread = f" [{interval[0]:+.3g}, {interval[1]:+.3g}]" if interval else ""
    return f"{change.new.mean - change.old.mean:+.3g}{spread}"


_HEADINGS = ("metric", "old", "new", "change", "verdict")


def to_terminal(comparison: CommitComparison) -> None:
    """Print everything, the verdicts' counts last, where a reader's eye is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for title, headings, rows in (
        (
            "Settings",
            ("setting", "old", "new"),
            [(name, *map(str, pair)) for name, pair in comparison.settings.items()],
        ),
        ("Data", ("differs",), [(path,) for path in comparison.data]),
        ("Code", ("file", "lines"), list(comparison.code.items())),
        ("Metrics", _HEADINGS, _rows(comparison)),
    ):
        if not rows:
            console.print(f"{title}: no difference", style="dim")
            continue
        table = Table(title=title, title_justify="left")
        for number, heading in enumerate(headings):
            table.add_column(
                heading, overflow="fold", justify="right" if title == "Metrics" and 0 < number < 4 else "left"
            )
        for row in rows:
            style = _STYLES.get(row[-1], "") if title == "Metrics" else ""
            table.add_row(*(Text(cell, style=style) for cell in row))
        console.print(table)
    for warning in comparison.warnings:
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
    console.print(f"Against {comparison.commit}: {comparison.headline}", highlight=False, markup=False, soft_wrap=True)


def to_markdown(comparison: CommitComparison) -> str:
    """The same for a pull request; what is within noise is folded away."""
    settled = [row for row in _rows(comparison) if row[-1] != "within noise"]
    noise = [row for row in _rows(comparison) if row[-1] == "within noise"]
    parts = [f"## Against {comparison.commit}: {comparison.headline}", *comparison.warnings]
    parts += ["### Metrics", _table(_HEADINGS, settled) if settled else "None beyond noise."]
    if noise:
        parts.append(
            f"<details><summary>{len(noise)} within noise</summary>\n\n{_table(_HEADINGS, noise)}\n\n</details>"
        )
    settings = [(f"`{name}`", str(old), str(new)) for name, (old, new) in comparison.settings.items()]
    parts += ["### Settings", _table(("setting", "old", "new"), settings) if settings else "No difference."]
    parts += ["### Data", "\n".join(f"- `{path}`" for path in comparison.data) or "No difference."]
    code = [f"- `{path}` {lines}" for path, lines in comparison.code.items()]
    parts += ["### Code", "\n".join(code) or "No difference."]
    return "\n\n".join(parts) + "\n"


def to_json(comparison: CommitComparison) -> dict[str, Any]:
    """The same for a program: numbers as numbers, a value as `{"mean", "ci95"}`, the order that of the table."""
    return {
        "commit": comparison.commit,
        "headline": comparison.headline,
        "warnings": comparison.warnings,
        "stale": comparison.stale,
        "metrics": [
            {
                "name": change.name,
                "old": _number(change.old),
                "new": _number(change.new),
                "difference_ci95": change.interval,
                "verdict": change.verdict,
            }
            for change in comparison.ordered
        ],
        "settings": {name: {"old": old, "new": new} for name, (old, new) in comparison.settings.items()},
        "data": list(comparison.data),
        "code": dict(comparison.code),
    }


def _number(value: Value | None) -> dict[str, Any] | None:
    return None if value is None else {"mean": value.mean, "ci95": value.interval}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
