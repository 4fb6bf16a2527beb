"""Files of rows as people have them: one text in every form, and a sentence with the cause for what cannot be read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from commands.adopt_rows import read_given
from distill.data.rows import Fields
from distill.data.sources import Source, read_source
from tests.test_data_sources import GOOD, message_of, read, write_lines

PLAIN = [GOOD, GOOD | {"instruction": "Grüße?\u2028Und \U0001f642", "output": 'Ja, "gern";\tbitte.\nDanke.'}]


def spelled(rows: list[dict[str, str]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def delimited(rows: list[dict[str, str]], delimiter: str) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def arrow(rows: list[dict[str, str]], writer: Callable[..., Any]) -> bytes:
    table, stream = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with writer(stream, table.schema) as out:
        out.write_table(table)
    return stream.getvalue()


FORMS = {
    "UPPER.JSONL": spelled(PLAIN),
    "a.NdJson": spelled(PLAIN),
    "cr_only.jsonl": spelled(PLAIN, "\r"),
    "utf16.jsonl": spelled(PLAIN).decode().encode("utf-16"),
    "utf16_without_mark.jsonl": spelled(PLAIN).decode().encode("utf-16-be"),
    "utf32.json": json.dumps(PLAIN).encode("utf-32"),
    "a.jsonl.gz": gzip.compress(spelled(PLAIN)),
    "a.json.BZ2": bz2.compress(json.dumps(PLAIN).encode()),
    "packed_in_secret.jsonl": gzip.compress(spelled(PLAIN)),
    "a.jsonl.zst": pyarrow.compress(spelled(PLAIN), codec="zstd", asbytes=True),
    "a.csv": delimited(PLAIN, ","),
    "of_excel.csv": b"\xef\xbb\xbf" + delimited(PLAIN, ";"),
    "a.tsv.xz": lzma.compress(delimited(PLAIN, "\t")),
    "file.arrow": arrow(PLAIN, pyarrow.ipc.new_file),
    "stream.arrow": arrow(PLAIN, pyarrow.ipc.new_stream),
}


@pytest.mark.parametrize("name", FORMS)
def test_one_text_in_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    rows = read(tmp_path / name).rows
    assert [(row.instruction, row.references) for row in rows] == [(r["instruction"], (r["output"],)) for r in PLAIN]


def test_columns_that_nobody_reads_are_not_decoded(tmp_path: Path) -> None:
    """The media below cannot be decoded: their bytes are none, and the packages for it may not be here."""
    media = {"bytes": b"neither sound nor picture", "path": None}
    row = {"instruction": "i", "output": '["a", "b"]', "sound": media, "picture": media}
    kinds = {"output": "Json", "sound": "Audio", "picture": "Image"}
    noted = {name: {"_type": kind} for name, kind in kinds.items()} | {
        "instruction": {"_type": "Value", "dtype": "string"}
    }
    table = pyarrow.Table.from_pylist([row])
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": noted}})})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").rows[0].references == ("a", "b"), "what `datasets` noted as JSON is a list"
    said = message_of(tmp_path / "a.parquet", fields=Fields(output="answer"))
    assert "its fields are instruction, output, sound, picture; " in said
    whole = read_source(Source(path="a.parquet"), tmp_path)
    assert whole.records[0].content["sound"] == media, "as it lies"
    parquet.write_table(pyarrow.concat_tables([table] * 30), tmp_path / "b.parquet")
    assert len(read_given(tmp_path / "b.parquet", None, None, "").train.rows) == 30, "adopt looks at all columns"
    assert "a.parquet cannot be read (" in message_of(tmp_path / "a.parquet", fields=Fields(output="sound"))


UNREADABLE = {
    "deep.jsonl": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1: nested too deeply to be read"),
    "digits.jsonl": (b'{"a": ' + b"9" * 5_000 + b"}\n", "line 1: a whole number of 5,000 digits, too long to be read"),
    "deep.json": (b"[" * 100_000, "is nested too deeply to be read"),
    "twice.jsonl": (b'{"output": "a", "output": "b"}\n', "line 1: ambiguous (`output` has two values in one object)"),
    "cells.csv": (b"instruction,output\nA,b,c\n", "line 2: of 3 cells, where the first line names 2"),
    "open.csv": (b'instruction,output\n"A,b\nC,d\n', "the row of line 2 is no row of a table (unexpected end of data)"),
    "names.csv": (b"output,output\na,b\n", "has two columns `output`; rename one"),
    "latin.csv": (b"instruction,output\ncaf\xe9,b\n", "line 2 is not UTF-8 (byte 0xe9); save it as UTF-8"),
    "half.jsonl": (spelled(PLAIN).decode().encode("utf-16")[:-1], "cannot be read (not UTF-16"),
    "cut.jsonl.gz": (gzip.compress(spelled(PLAIN * 50))[:-9], "is damaged"),
    "cut.jsonl.zst": (FORMS["a.jsonl.zst"][:-5], "is damaged"),
    "rows.zip": (b"PK", "is an archive; unpack it"),
    "a.parquet.gz": (b"", "is packed, which only text can be here; unpack it and name a.parquet"),
    "none.arrow": (b"ARROW1 and no more", "is no readable Arrow file"),
    "empty.parquet": (b"", "is no readable Parquet file"),
    "empty.csv": (b"", "has no rows"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_a_sentence_with_the_cause(tmp_path: Path, name: str) -> None:
    content, said = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    assert said in message_of(tmp_path / name)


def test_whatever_a_reader_raises_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ImportError("To read this, please install 'xyz'.")

    write_lines(tmp_path / "a.jsonl", GOOD)
    monkeypatch.setattr("distill.data.sources.read_json_lines", fail)
    said = message_of(tmp_path / "a.jsonl")
    assert "a.jsonl cannot be read (ImportError: To read this, please install 'xyz'); mend it, or write it anew" in said
