"""The report of a run: a Prefect markdown artifact, and an event if numbers got worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from tasks.metrics import CommitMetrics
from tasks.progress import duration
from tasks.schedule import Ending, Outcome

WORSE_EVENT = "rebuild.worse"
REPORT_KEY = "rebuild-report"
_HTML = Path("results/report.html")


@dataclass(frozen=True)
class Report:
    """A run's outcome against the commit it started from."""

    root: Path
    base: str
    """The commit compared with, in words: `a1b2c3d Raise the learning rate`; empty where nothing is compared."""
    endings: Mapping[str, Ending]
    comparison: CommitMetrics
    seconds: float

    def headline(self) -> str:
        """`3 Built, 2 Restored, 12 UpToDate in 5 min`."""
        counts = Counter(ending.outcome for ending in self.endings.values())
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
        return f"{told or 'no stages'} in {duration(self.seconds)}"

    def markdown(self) -> str:
        """The report as Markdown."""
        parts = [f"# {self.headline()}", f"`{self.root}`"]
        if (self.root / _HTML).exists():
            parts.append(f"Full report: [{_HTML}]({(self.root / _HTML).resolve().as_uri()})")
        return "\n\n".join([*parts, self._changes(), "## Stages", self._stages()]) + "\n"

    def _changes(self) -> str:
        if self.comparison.failure:
            return f"## Not compared with {self.base}\n\n```\n{self.comparison.failure}\n```"
        return self.comparison.text.strip() or "Nothing was built: there is nothing to compare."

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
            "metrics": {change.name: [str(change.old), str(change.new)] for change in report.comparison.worse},
        },
    )
