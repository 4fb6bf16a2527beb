"""What a run did, for people: a Prefect markdown artifact, and an event when the numbers got worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from tasks.metrics import Change
from tasks.progress import duration
from tasks.schedule import Ending, Outcome

WORSE_EVENT = "rebuild.worse"
REPORT_KEY = "rebuild-report"
_HTML = Path("results/report.html")
_ORDER = ("worse", "better", "changed", "new", "gone", "within noise")


@dataclass(frozen=True)
class Report:
    """A run's outcome against the commit it started from."""

    root: Path
    base: str
    """The commit compared with, in words: `a1b2c3d Raise the learning rate`."""
    endings: Mapping[str, Ending]
    metrics: Sequence[Change]
    settings: Mapping[str, tuple[Any, Any]]
    seconds: float

    @property
    def worse(self) -> list[Change]:
        """Metrics that fell by more than chance."""
        return [change for change in self.metrics if change.verdict == "worse"]

    def headline(self) -> str:
        """`3 Built, 2 Restored, 12 UpToDate in 5 min`."""
        counts = Counter(ending.outcome for ending in self.endings.values())
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
        return f"{told or 'no stages'} in {duration(self.seconds)}"

    def markdown(self) -> str:
        """The report as Markdown."""
        parts = [
            f"# {self.headline()}",
            f"`{self.root}`, compared with {self.base or 'nothing: no commit yet'}",
        ]
        if (self.root / _HTML).exists():
            parts.append(f"Full report: [{_HTML}]({(self.root / _HTML).resolve().as_uri()})")
        parts += [
            "## Metrics",
            self._metrics(),
            "## Settings that changed",
            self._settings(),
            "## Stages",
            self._stages(),
        ]
        return "\n\n".join(parts) + "\n"

    def _metrics(self) -> str:
        rows = sorted(self.metrics, key=lambda change: _ORDER.index(change.verdict))
        return table(
            ("metric", "old", "new", "verdict"),
            [
                (
                    c.name,
                    c.old or "–",
                    c.new or "–",
                    f"**{c.verdict}**" if c.verdict == "worse" else c.verdict,
                )
                for c in rows
            ],
            "No metric changed.",
        )

    def _settings(self) -> str:
        rows = [(f"`{name}`", old, new) for name, (old, new) in self.settings.items()]
        return table(("setting", "old", "new"), rows, "None.")

    def _stages(self) -> str:
        rows = [
            (
                name,
                end.outcome,
                duration(end.seconds),
                round(end.seconds * end.devices),
                end.message.partition("\n")[0],
            )
            for name, end in self.endings.items()
            if end.outcome is not Outcome.UP_TO_DATE
        ]
        rest = len(self.endings) - len(rows)
        shown = table(("stage", "state", "time", "GPU seconds", "note"), rows, "")
        return "\n\n".join(part for part in (shown, f"{rest} stages were up to date." if rest else "") if part)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> str:
    """A Markdown table, or `nothing` without rows."""
    if not rows:
        return nothing
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def publish_report(report: Report) -> None:
    """Show the report in the UI as the artifact `rebuild-report` of the current flow run."""
    create_markdown_artifact(report.markdown(), key=REPORT_KEY, description=report.headline())


def emit_worse(report: Report, ref: str | None) -> None:
    """Tell Prefect that metrics got worse: the event `rebuild.worse`, which an automation can pass on."""
    emit_event(
        WORSE_EVENT,
        resource={
            "prefect.resource.id": f"rebuild.{report.root.name}",
            "prefect.resource.name": str(report.root),
        },
        payload={
            "ref": ref,
            "base": report.base,
            "metrics": {change.name: [str(change.old), str(change.new)] for change in report.worse},
        },
    )
