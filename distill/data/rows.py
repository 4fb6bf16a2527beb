"""Instruction rows from records: the names of the fields, and the faults of a malformed row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distill.data.sources import Source, read_source
from distill.data.tables import BadRow, MalformedRowError, OnBadRow, RecordTable, refuse_bad_rows
from distill.project.errors import DataError
from distill.project.settings import Settings


class Fields(Settings):
    """Names of the source's fields; a dot goes inside, e.g. `instances.0.input`."""

    instruction: str = "instruction"
    """The task; needed in every row."""
    input: str = "input"
    """The text the task is about; may be empty or absent."""
    output: str = "output"
    """The response, or a list of equally good ones; needed in every row."""
    category: str = "category"
    """The kind of task, kept for a reader of the results; may be empty or absent."""


_OPTIONAL = ("input", "category")


class Row(NamedTuple):
    """One instruction with one reference response or more."""

    number: int
    """Line of a JSONL file, row of any other source, counted from 1."""
    instruction: str
    input: str
    references: tuple[str, ...]
    category: str


@dataclass(frozen=True)
class Split:
    """The usable rows of a source, in its order, and the others by reason."""

    name: str
    read: int
    """Rows the source holds, malformed ones included."""
    rows: list[Row]
    malformed: list[BadRow]
    dropped: dict[str, list[int]]
    """Numbers of the rows that were left out, by reason."""


def read_split(source: Source, fields: Fields, on_bad_row: OnBadRow, base: Path) -> Split:
    """Read a source's usable rows.

    Raises: DataError for a source that cannot be read, a field that is not there, malformed rows unless
    `on_bad_row` is `skip`, and when no row is left.
    """
    return interpret(read_source(source, base), fields, on_bad_row)


def interpret(table: RecordTable, fields: Fields, on_bad_row: OnBadRow) -> Split:
    """The usable rows of a table; rows without instruction or response are left out.

    Raises: as `read_split`.
    """
    if table.records:
        _require_fields(table, fields)
    rows: list[Row] = []
    malformed = list(table.bad)
    for record in table.records:
        try:
            rows.append(_to_row(record.number, record.content, fields))
        except MalformedRowError as error:
            malformed.append(BadRow(record.number, str(error)))
    malformed.sort()
    if on_bad_row == "error":
        refuse_bad_rows(table, malformed)
    usable = [row for row in rows if row.instruction.strip() and row.references]
    dropped = {
        "empty_instruction": [row.number for row in rows if not row.instruction.strip()],
        "empty_response": [row.number for row in rows if row.instruction.strip() and not row.references],
    }
    split = Split(table.name, len(rows) + len(malformed), usable, malformed, dropped)
    require_rows(split)
    return split


def require_rows(split: Split) -> None:
    """Refuse a split with nothing left in it. Raises: DataError with each reason and its count."""
    if split.rows:
        return
    if not split.read:
        raise DataError(f"{split.name} has no rows; give it some")
    gone = {"malformed": len(split.malformed)} | {why: len(rows) for why, rows in split.dropped.items()}
    reasons = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in gone.items() if count)
    raise DataError(
        f"none of the {split.read:,} rows of {split.name} is left ({reasons}); "
        "correct the file, its `fields` or the limit that left them out"
    )


def _require_fields(table: RecordTable, fields: Fields) -> None:
    there = table.columns
    missing = [
        f"{name}: {field}"
        for name, field in fields.model_dump().items()
        # An optional field may be absent as long as nobody asked for it by name.
        if field.split(".")[0] not in there and (name not in _OPTIONAL or name in fields.model_fields_set)
    ]
    if missing:
        raise DataError(
            f"{table.name} has no field for `{'`, `'.join(missing)}`; its fields are {', '.join(there)}; "
            "name the right ones under `fields`"
        )


def _to_row(number: int, content: dict[str, Any], fields: Fields) -> Row:
    output = _value(content, fields.output)
    texts = output if isinstance(output, Sequence) and not isinstance(output, str) else [output]
    references = [_text(text, fields.output) for text in texts]
    return Row(
        number,
        _text(_value(content, fields.instruction), fields.instruction),
        _optional_text(content, fields.input),
        tuple(text for text in references if text.strip()),
        _optional_text(content, fields.category),
    )


_ABSENT = object()


def _value(content: Any, field: str) -> Any:
    """The value at a dotted field, `_ABSENT` where a step is missing."""
    for step in field.split("."):
        if isinstance(content, dict):
            content = content.get(step, _ABSENT)
        elif isinstance(content, list) and step.isdecimal() and int(step) < len(content):
            content = content[int(step)]
        else:
            return _ABSENT
    return content


def _optional_text(content: dict[str, Any], field: str) -> str:
    value = _value(content, field)
    return "" if value is None or value is _ABSENT else _text(value, field)


def _text(value: Any, field: str) -> str:
    if value is _ABSENT:
        raise MalformedRowError(f"no `{field}`")
    if not isinstance(value, str):
        kind = "null" if value is None else f"of type {type(value).__name__}"
        raise MalformedRowError(f"`{field}` is {kind}, not text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise MalformedRowError(f"`{field}` holds half of a two-part Unicode character")
    return value
