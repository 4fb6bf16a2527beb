"""Instruction rows from records: the names of the fields, and the faults of a malformed row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import model_validator

from distill.data.conversations import (
    ASSISTANT,
    KINDS,
    USER,
    Roles,
    UnusableError,
    find_conversations,
    first_exchange,
    role_of,
)
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
    conversation: str | None = None
    """In place of the first three: a list of turns, read by role. The first question of a user and the answer to it are
    the row; other turns are counted and not used."""
    user: str | None = None
    """With `conversation`: a further name of the user's role, beside `user` and `human`."""
    assistant: str | None = None
    """With `conversation`: a further name of the assistant's role, beside `assistant` and `gpt`."""

    @model_validator(mode="after")
    def _one_form(self) -> Fields:
        texts = sorted(self.model_fields_set & set(_TEXTS)) if self.conversation is not None else []
        if texts:
            raise ValueError(f"`conversation` holds question and answer; remove {' and '.join(texts)}")
        if self.conversation is None and (self.user or self.assistant):
            raise ValueError("`user` and `assistant` are roles of a `conversation`; name its field too")
        return self

    @property
    def named(self) -> dict[str, str]:
        """What is read, by its name here."""
        wanted = (*_TEXTS, "category") if self.conversation is None else ("conversation", "category")
        return {name: getattr(self, name) for name in wanted}

    @property
    def columns(self) -> set[str]:
        """The columns of the source that hold all this."""
        return {place.split(".")[0] for place in self.named.values()}


_TEXTS = ("instruction", "input", "output")
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
    unused: dict[str, int] = field(default_factory=dict)
    """Numbers of turns of conversations that no row has, by kind."""


def read_split(source: Source, fields: Fields, on_bad_row: OnBadRow, base: Path) -> Split:
    """Read a source's usable rows.

    Raises: DataError for a source that cannot be read, a field that is not there, malformed rows unless
    `on_bad_row` is `skip`, and when no row is left.
    """
    return interpret(read_source(source, base, fields.columns), fields, on_bad_row)


def interpret(table: RecordTable, fields: Fields, on_bad_row: OnBadRow) -> Split:
    """The usable rows of a table; rows without instruction or response are left out.

    Raises: as `read_split`.
    """
    if table.records:
        _require_fields(table, fields)
    rows: list[Row] = []
    malformed = list(table.bad)
    unusable: dict[str, list[int]] = {}
    unused = _turns_by_number(table, fields)
    for record in table.records:
        try:
            row, left = _to_row(record.number, record.content, fields)
            rows.append(row)
            unused += left
        except UnusableError as error:
            unusable.setdefault(str(error), []).append(record.number)
        except MalformedRowError as error:
            malformed.append(BadRow(record.number, str(error)))
    malformed.sort()
    if on_bad_row == "error":
        refuse_bad_rows(table, malformed)
    usable = [row for row in rows if row.instruction.strip() and row.references]
    dropped = {
        "empty_instruction": [row.number for row in rows if not row.instruction.strip()],
        "empty_response": [row.number for row in rows if row.instruction.strip() and not row.references],
        **unusable,
    }
    split = Split(table.name, len(table.records) + len(table.bad), usable, malformed, dropped, dict(unused))
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
        for name, field in fields.named.items()
        # An optional field may be absent as long as nobody asked for it by name.
        if field.split(".")[0] not in there and (name not in _OPTIONAL or name in fields.model_fields_set)
    ]
    if missing:
        chats = "".join(f"; `conversation: {name}` reads turns by role" for name in find_conversations(table))
        raise DataError(
            f"{table.name} has no field for `{'`, `'.join(missing)}`; its fields are {', '.join(there)}; "
            f"name the right ones under `fields`{chats}"
        )


def _turns_by_number(table: RecordTable, fields: Fields) -> Counter[str]:
    """Turns behind the answers that are read from a place by number in conversations.

    Raises: DataError unless questions stand at the instruction's place in every row, and answers at the output's.
    """
    later: Counter[str] = Counter()
    for name, wanted in (("instruction", USER), ("output", ASSISTANT)):
        steps = fields.named.get(name, "").split(".")
        for number in (number for number, step in enumerate(steps) if step.isdecimal()):
            place, above = ".".join(steps[: number + 1]), ".".join(steps[:number])
            roles: Counter[str] = Counter()
            for record in table.records:
                turns, role = _value(record.content, above), _role(_value(record.content, place))
                if role is not None and isinstance(turns, list):
                    roles[role] += 1
                    later["later_turns"] += len(turns) - int(steps[number]) - 1
            kinds = {Roles().kind(role) for role in roles}
            if len(kinds) > 1 or kinds & (KINDS - {wanted}):
                told = ", ".join(f"{role} in {count:,}" for role, count in roles.most_common(4))
                raise DataError(
                    f"{table.name}: `{name}` is read from `{place}`, whose role is {told} rows; read turns by their "
                    f"role instead: under `fields`, `conversation: {above}` in place of instruction and output (for "
                    f"adopt, --fields conversation={above})"
                )
        if name == "instruction":
            later.clear()
    return later


def _role(turn: Any) -> str | None:
    try:
        return role_of(turn, 1) if isinstance(turn, dict) else None
    except MalformedRowError:
        return None


def _to_row(number: int, content: dict[str, Any], fields: Fields) -> tuple[Row, Counter[str]]:
    """A row, and the turns of its conversation that it leaves unused."""
    if fields.conversation is not None:
        value = _value(content, fields.conversation)
        if value is _ABSENT:
            raise MalformedRowError(f"no `{fields.conversation}`")
        found = first_exchange(value, Roles(fields.user, fields.assistant))
        question, answer = (_text(text, fields.conversation) for text in (found.question, found.answer))
        references = (answer,) if answer.strip() else ()
        return Row(number, question, "", references, _optional_text(content, fields.category)), found.unused
    output = _value(content, fields.output)
    texts = output if isinstance(output, Sequence) and not isinstance(output, str | bytes) else [output]
    given = [_text(text, fields.output) for text in texts]
    row = Row(
        number,
        _text(_value(content, fields.instruction), fields.instruction),
        _optional_text(content, fields.input),
        tuple(text for text in given if text.strip()),
        _optional_text(content, fields.category),
    )
    return row, Counter()


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
