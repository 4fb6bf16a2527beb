"""Rows of a CSV or TSV file, whose first line names the columns."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from distill.data.opening import open_bytes, read_utf8
from distill.data.tables import BadRow, Record, RecordTable
from distill.project.errors import DataError

_DELIMITERS = ",;\t|"


def read_delimited(path: Path, limit: int | None, delimiter: str | None = None) -> RecordTable:
    """Read a table of text, from a file that may be packed; without `delimiter` it is the commonest of the first line.

    Cells with line breaks stand in double quotes. A row is named by the line it begins on; one with another number of
    cells than the first line goes to `RecordTable.bad`. Raises: DataError when the file cannot be read as a whole.
    """
    with open_bytes(path) as stream:
        content = read_utf8(stream).read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line} is not UTF-8 (byte {content[error.start]:#04x}); save it as UTF-8"
        ) from None
    csv.field_size_limit(sys.maxsize)
    first = text.lstrip("\r\n").partition("\n")[0].partition("\r")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter or max(_DELIMITERS, key=first.count), strict=True
    )
    names: list[str] = []
    records: list[Record] = []
    bad: list[BadRow] = []
    begins = 1
    try:
        for cells in reader:
            number, begins = begins, reader.line_num + 1
            if not cells:
                continue
            if not names:
                names = _columns(path, cells)
            elif limit is not None and len(records) + len(bad) == limit:
                break
            elif len(cells) != len(names):
                bad.append(BadRow(number, f"of {len(cells)} cells, where the first line names {len(names)}"))
            else:
                records.append(Record(number, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}: the row of line {begins} is no row of a table ({error}); quote it anew") from None
    return RecordTable(str(path), "line", records, bad, tuple(names))


def _columns(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DataError(f"{path} has two columns `{twice}`; rename one")
    return names
