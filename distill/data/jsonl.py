"""JSON files read line by line, so that a message names the line of a malformed row.

`datasets` reads them too, but it names no line, takes text that looks like a date for a date, and
refuses a field that is a string in one row and a list in the next (the references of S-NI).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distill.data.opening import open_bytes, read_utf8
from distill.data.tables import BadRow, MalformedRowError, Record, RecordTable
from distill.project.errors import DataError


def read_json_lines(path: Path, limit: int | None) -> RecordTable:
    """Read one JSON object a line, from a file that may be packed; blank lines are passed over.

    `limit` stops after that many rows, malformed ones included. Raises: DataError when the file as a whole
    cannot be read; a row that cannot be read goes to `RecordTable.bad`.
    """
    records: list[Record] = []
    bad: list[BadRow] = []
    with open_bytes(path) as stream:
        for number, line in enumerate(_lines(read_utf8(stream)), start=1):
            if limit is not None and len(records) + len(bad) == limit:
                break
            if not line.strip():
                continue
            try:
                records.append(Record(number, _as_object(parse_json(line.decode("utf-8-sig").strip()))))
            except ValueError as error:
                bad.append(BadRow(number, explain(error)))
    return RecordTable(str(path), "line", records, bad)


def read_json_array(path: Path, limit: int | None) -> RecordTable:
    """Read a file, packed or not, that holds one list of objects; rows are counted from 1.

    Raises: DataError when the file is not such a list.
    """
    with open_bytes(path) as stream:
        try:
            content = parse_json(read_utf8(stream).read().decode("utf-8-sig"))
        except ValueError as error:
            fix = "correct it; if it has one object a line, name it .jsonl"
            raise DataError(f"{path} is {explain(error)}; {fix}") from None
    if not isinstance(content, list):
        raise DataError(f"{path} holds no list of rows; write it as [{{…}}, {{…}}], or as .jsonl")
    records: list[Record] = []
    bad: list[BadRow] = []
    for number, row in enumerate(content[:limit], start=1):
        try:
            records.append(Record(number, _as_object(row)))
        except ValueError as error:
            bad.append(BadRow(number, explain(error)))
    return RecordTable(str(path), "row", records, bad)


def parse_json(text: str) -> Any:
    """A JSON value. Raises: ValueError, also for brackets without end and for a key with two values in one object."""
    try:
        return json.loads(text, object_pairs_hook=_one_value_a_key, parse_int=_whole_number)
    except RecursionError:
        raise MalformedRowError("nested too deeply to be read") from None


def decode_text(content: bytes) -> str:
    """Bytes in a Unicode encoding as text with plain newlines. Raises: ValueError naming the byte that is not."""
    try:
        return read_utf8(io.BytesIO(content)).read().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(explain(error)) from None


def explain(error: ValueError) -> str:
    """The fault of a text that is not what it should be, as it stands behind "is" or a line's number."""
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.lower().removesuffix(" at").removesuffix(" starting")
        return f"not JSON ({what}, column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        name = error.encoding.upper().replace("UTF8", "UTF-8")
        return f"not {name} (byte {error.object[error.start]:#04x} at position {error.start})"
    return str(error)


def _whole_number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's words name a switch of Python's
        raise MalformedRowError(f"a whole number of {len(digits):,} digits, too long to be read") from None


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    # Bytes are split at line ends alone: text mode would hide which line an encoding fault stands in.
    for line in stream:
        yield from line.splitlines()


def _as_object(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise MalformedRowError(f"of type {type(row).__name__}, not an object {{…}}")
    return row


def _one_value_a_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise MalformedRowError(f"ambiguous (`{key}` has two values in one object)")
    return found
