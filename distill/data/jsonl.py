"""JSON files read line by line, so that a message names the line of a malformed row.

`datasets` reads them too, but it names no line, takes text that looks like a date for a date, and
refuses a field that is a string in one row and a list in the next (the references of S-NI).
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from distill.data.tables import BadRow, MalformedRowError, Record, RecordTable
from distill.project.errors import DataError


def read_json_lines(path: Path, limit: int | None) -> RecordTable:
    """Read one JSON object a line from `.jsonl` or `.jsonl.xz`; blank lines are passed over.

    `limit` stops after that many rows, malformed ones included. Raises: DataError when the file as a whole
    cannot be read; a row that cannot be read goes to `RecordTable.bad`.
    """
    records: list[Record] = []
    bad: list[BadRow] = []
    with open_bytes(path) as stream:
        # Bytes are split at newlines alone: text mode would hide which line an encoding fault stands in.
        for number, line in enumerate(stream, start=1):
            if limit is not None and len(records) + len(bad) == limit:
                break
            if not line.strip():
                continue
            try:
                records.append(Record(number, _as_object(json.loads(line.decode("utf-8-sig").strip()))))
            except ValueError as error:
                bad.append(BadRow(number, _explain(error)))
    return RecordTable(str(path), "line", records, bad)


def read_json_array(path: Path, limit: int | None) -> RecordTable:
    """Read a `.json` file that holds one list of objects; rows are counted from 1.

    Raises: DataError when the file is not such a list.
    """
    with open_bytes(path) as stream:
        try:
            content = json.loads(stream.read().decode("utf-8-sig"))
        except ValueError as error:
            fix = "correct it; if it has one object a line, name it .jsonl"
            raise DataError(f"{path} is {_explain(error)}; {fix}") from None
    if not isinstance(content, list):
        raise DataError(f"{path} holds no list of rows; write it as [{{…}}, {{…}}], or as .jsonl")
    records: list[Record] = []
    bad: list[BadRow] = []
    for number, row in enumerate(content[:limit], start=1):
        try:
            records.append(Record(number, _as_object(row)))
        except ValueError as error:
            bad.append(BadRow(number, _explain(error)))
    return RecordTable(str(path), "row", records, bad)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that may be xz-compressed.

    Raises: DataError when it is missing, a folder, or not the xz file its name promises.
    """
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; correct the path or put the file there") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name a file in it") from None
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); fetch it again") from None


def decode_text(content: bytes) -> str:
    """Bytes as UTF-8 text with plain newlines. Raises: ValueError naming the byte that is not."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(_explain(error)) from None


def _as_object(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise MalformedRowError(f"of type {type(row).__name__}, not an object {{…}}")
    return row


def _explain(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.lower().removesuffix(" at").removesuffix(" starting")
        return f"not JSON ({what}, column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start})"
    return str(error)
