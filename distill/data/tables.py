"""Records of a source, before their fields have a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from distill.project.errors import DataError

_SHOWN = 5

OnBadRow = Literal["error", "skip"]


class MalformedRowError(ValueError):
    """A row that cannot be used; the message says why and becomes its `BadRow.reason`."""


class Record(NamedTuple):
    """One object of a source and its place there: the line of a JSONL file, the row of anything else."""

    number: int
    content: dict[str, Any]


class BadRow(NamedTuple):
    """A malformed row and its fault."""

    number: int
    reason: str


@dataclass(frozen=True)
class RecordTable:
    """The records and malformed rows of a source; `name` and `unit` are for messages (`train.jsonl`, `line`)."""

    name: str
    unit: str
    records: list[Record]
    bad: list[BadRow]
    names: tuple[str, ...] = ()
    """The columns of a source that knows them by itself; `records` may hold fewer."""

    @property
    def columns(self) -> list[str]:
        """The field names that occur anywhere, in order of first sight."""
        return list(self.names or dict.fromkeys(column for record in self.records for column in record.content))


def refuse_bad_rows(table: RecordTable, bad: list[BadRow]) -> None:
    """Raise one DataError that counts all malformed rows and shows the first few, if there are any."""
    if not bad:
        return
    shown = [f"  {table.unit} {row.number}: {row.reason}" for row in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        shown.append(f"  and {len(bad) - _SHOWN:,} more")
    heading = f"{table.name} has {len(bad):,} malformed row{'s' if len(bad) > 1 else ''}:"
    fix = "correct or remove them, or leave them out with `on_bad_row: skip` in the profile"
    raise DataError("\n".join([heading, *shown, fix]))
