"""The plain-text corpus D_PT: documents as they are; training cuts them into chunks."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from distill.data.jsonl import decode_text
from distill.data.opening import open_bytes
from distill.data.rows import Fields, Split, interpret
from distill.data.sources import Source, locate, read_source
from distill.data.tables import BadRow, OnBadRow, Record, RecordTable
from distill.project.errors import DataError


class CorpusSource(Source):
    """A source of documents; `limit` counts documents."""

    path: str | None = None
    """A `.txt` file (one document), a `.zip` of them, a folder of either, or a file of rows."""
    text: str = "text"
    """The field that holds a document, where the source has fields."""
    on_bad_row: OnBadRow = "error"
    """A malformed row, or a text that is not UTF-8, stops preparation (`error`) or is left out (`skip`)."""


def read_corpus(source: CorpusSource, base: Path) -> Split:
    """The corpus as rows whose instruction is the document, in the order of the source.

    Raises: DataError for a source that cannot be read, and when it holds no text.
    """
    path = None if source.path is None else locate(source.path, base)
    if path is not None and (path.is_dir() or path.suffix.lower() in {".txt", ".zip"}):
        table, text = _as_table(path, source.limit), "text"
    else:
        table, text = read_source(source, base, {source.text.split(".")[0]}), source.text
    return interpret(table, Fields(instruction=text, output=text), source.on_bad_row)


def _as_table(path: Path, limit: int | None) -> RecordTable:
    files = list(_read_files(path))[:limit]
    if not files:
        raise DataError(f"{path} holds no .txt file; give a .txt file, a .zip of them or a folder")
    table = RecordTable(str(path), "text", [], [])
    for number, (name, content) in enumerate(files, start=1):
        try:
            table.records.append(Record(number, {"text": decode_text(content)}))
        except ValueError as error:
            table.bad.append(BadRow(number, f"{name} is {error}"))
    return table


def _read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each text file at a path, in the order of their names."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in {".txt", ".zip"}:
                yield from _read_files(file)
    elif path.suffix.lower() == ".zip":
        yield from _read_zip(path)
    else:
        with open_bytes(path) as stream:
            yield path.name, stream.read()


def _read_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with open_bytes(path) as stream, zipfile.ZipFile(stream) as archive:
            for name in sorted(name for name in archive.namelist() if name.lower().endswith(".txt")):
                yield name, archive.read(name)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no readable zip file ({error}); fetch it again") from None
