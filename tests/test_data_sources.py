"""Reading data: every kind of source, and one readable message for every way it can be bad."""

from __future__ import annotations

import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from distill.data.corpus import CorpusSource, read_corpus
from distill.data.rows import Fields, Split, read_split
from distill.data.sources import HubSource, Source
from distill.data.tables import OnBadRow
from distill.project.errors import DataError

GOOD = {"instruction": "Name a colour.", "input": "", "output": "Red."}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_lines(path: Path, *lines: Any) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def read(path: Path, fields: Fields | None = None, on_bad_row: OnBadRow = "error", **more: Any) -> Split:
    return read_split(Source(path=path.name, **more), fields or Fields(), on_bad_row, path.parent)


def message_of(path: Path, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **arguments)
    return str(caught.value)


def test_one_row_becomes_text_with_its_references(tmp_path: Path) -> None:
    row = {"instruction": "Übersetze 'π≈3'", "input": "a\nb", "output": ["eins", "", "zwei"], "category": "x"}
    split = read(write_lines(tmp_path / "a.jsonl", row))
    assert split.rows == [(1, "Übersetze 'π≈3'", "a\nb", ("eins", "zwei"), "x")]


def test_input_and_category_may_be_null_or_absent(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "a.jsonl", {"instruction": "i", "output": "o"}, GOOD | {"input": None, "category": None}
    )
    assert [(row.input, row.category) for row in read(file).rows] == [("", ""), ("", "")]


def test_xz_json_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"output": "2020-01-01"}]
    lines = write_lines(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(lines.read_bytes()))
    (tmp_path / "c.json").write_text(json.dumps(rows))
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    expected = read(lines).rows
    assert [row.references for row in expected] == [("Red.",), ("2020-01-01",)]
    for name in ("b.jsonl.xz", "c.json", "d.parquet"):
        assert read(tmp_path / name).rows == expected


def test_a_limit_takes_the_first_rows_and_may_exceed_them(tmp_path: Path) -> None:
    rows = [GOOD | {"output": str(i)} for i in range(5)]
    lines = write_lines(tmp_path / "a.jsonl", *rows)
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.json").write_text(json.dumps(rows))
    for file in (lines, tmp_path / "b.parquet", tmp_path / "c.json"):
        assert [row.references[0] for row in read(file, limit=2).rows] == ["0", "1"]
        assert len(read(file, limit=9).rows) == 5


def test_fields_are_mapped_also_inside_of_lists(tmp_path: Path) -> None:
    row = {"task": "Rewrite.", "instances": [{"input": "abc", "output": "cba"}], "app": "Mail"}
    fields = Fields(instruction="task", input="instances.0.input", output="instances.0.output", category="app")
    assert read(write_lines(tmp_path / "a.jsonl", row), fields).rows == [(1, "Rewrite.", "abc", ("cba",), "Mail")]


BAD_LINES = [
    '{"instruction": "no end',
    "[1, 2]",
    {"instruction": "i"},
    GOOD | {"output": 3},
    GOOD | {"instruction": None},
    GOOD | {"output": ["a", None]},
    GOOD | {"input": "half \ud83d"},
]


def test_malformed_rows_are_one_error_with_file_and_lines(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", GOOD, "", *BAD_LINES)
    assert message_of(file).splitlines() == [
        f"{file} has 7 malformed rows:",
        "  line 3: not JSON (unterminated string, column 17)",
        "  line 4: of type list, not an object {…}",
        "  line 5: no `output`",
        "  line 6: `output` is of type int, not text",
        "  line 7: `instruction` is null, not text",
        "  and 2 more",
        "correct or remove them, or leave them out with `on_bad_row: skip` in the profile",
    ]


def test_malformed_rows_can_be_skipped_and_are_counted_with_their_lines(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", *BAD_LINES, GOOD)
    file.write_bytes(b'\xff{"instruction": "not UTF-8"}\n' + file.read_bytes())
    split = read(file, on_bad_row="skip")
    assert [row.number for row in split.rows] == [9]
    assert [row.number for row in split.malformed] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert split.malformed[0].reason == "not UTF-8 (byte 0xff at position 0)"
    assert split.read == 9


def test_a_byte_order_mark_and_windows_newlines_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read(file).rows) == 1


def test_rows_without_instruction_or_response_are_left_out(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "a.jsonl",
        GOOD | {"instruction": " \n"},
        GOOD | {"output": ""},
        GOOD | {"output": []},
        GOOD | {"output": [" "]},
        GOOD,
    )
    split = read(file)
    assert [row.number for row in split.rows] == [5]
    assert split.dropped == {"empty_instruction": [1], "empty_response": [2, 3, 4]}


def test_wrong_field_names_are_an_error_that_names_the_fields_there_are(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", {"question": "q", "answer": "a"})
    assert message_of(file) == (
        f"{file} has no field for `instruction: instruction`, `output: output`; "
        "its fields are question, answer; name the right ones under `fields`"
    )
    optional = Fields(instruction="question", output="answer", input="context")
    assert "no field for `input: context`;" in message_of(file, fields=optional)


def test_whatever_cannot_be_read_at_all_is_one_error_with_its_fix(tmp_path: Path) -> None:
    assert message_of(tmp_path / "none.jsonl").endswith("correct the path or put the file there")
    (tmp_path / "a.xlsx").write_text("x")
    assert "is of no kind that can be read; give .jsonl, .json, .csv, .tsv, " in message_of(tmp_path / "a.xlsx")
    (tmp_path / "b.jsonl.xz").write_bytes(b"not xz at all")
    assert message_of(tmp_path / "b.jsonl.xz").endswith("fetch it again")
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(b"{}" * 5000)[:40])
    assert message_of(tmp_path / "c.jsonl.xz").endswith("fetch it again")
    (tmp_path / "d.parquet").write_bytes(b"PAR")
    assert message_of(tmp_path / "d.parquet").endswith("write it again")
    write_lines(tmp_path / "e.json", GOOD, GOOD)
    assert message_of(tmp_path / "e.json").endswith("name it .jsonl")
    (tmp_path / "f.json").write_text("{}")
    assert message_of(tmp_path / "f.json").endswith("or as .jsonl")
    (tmp_path / "g.jsonl").mkdir()
    assert message_of(tmp_path / "g.jsonl").endswith("name a file in it")


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    assert message_of(tmp_path / "a.jsonl").endswith("has no rows; point to a file or split that has some")
    file = write_lines(tmp_path / "b.jsonl", GOOD | {"output": ""}, "{")
    expected = f"none of the 2 rows of {file} is left (1 malformed, 1 empty response); correct the file"
    assert message_of(file, on_bad_row="skip").startswith(expected)


def test_a_hub_data_set_out_of_reach_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    source = Source(hub=HubSource(id="owner/name", revision=COMMIT))
    with pytest.raises(DataError, match=r"out of reach for owner/name@01234567 \(train\).*give its `path` instead"):
        read_split(source, Fields(), "error", tmp_path)


def test_another_revision_in_the_cache_does_not_stand_in_for_the_pinned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(tmp_path, monkeypatch)
    put_into_cache(tmp_path, "f" * 40)
    # What `datasets` itself does when offline: it takes the other revision with no more than a warning.
    wrong = datasets.load_dataset("owner/name", revision=COMMIT, split="train")
    assert wrong[0]["output"] == "Red."
    with pytest.raises(DataError, match="out of reach"):
        read_split(Source(hub=HubSource(id="owner/name", revision=COMMIT)), Fields(), "error", tmp_path)


def test_a_hub_data_set_in_the_cache_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(tmp_path, monkeypatch)
    put_into_cache(tmp_path / "pinned" / COMMIT, COMMIT)
    split = read_split(Source(hub=HubSource(id="owner/name", revision=COMMIT)), Fields(), "error", tmp_path)
    assert split.rows[0].references == ("Red.",)
    wrong = Source(hub=HubSource(id="owner/name", revision=COMMIT, split="dev"))
    with pytest.raises(DataError, match=r"gives no rows \(Unknown split"):
        read_split(wrong, Fields(), "error", tmp_path)


def go_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def put_into_cache(cache: Path, revision: str) -> None:
    """Lay `owner/name` at a revision into a cache of `datasets`, as if it had been fetched before."""
    datasets.disable_progress_bars()
    cache.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list([GOOD]).to_parquet(cache / "rows.parquet")
    datasets.load_dataset("parquet", data_files=str(cache / "rows.parquet"), cache_dir=str(cache))
    built = next((cache / "parquet").glob("*/*/*/dataset_info.json")).parent
    target = cache / "owner___name" / "default" / "0.0.0" / revision
    target.parent.mkdir(parents=True)
    built.rename(target)
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"config_name": "default", "dataset_name": "name"}))
    (target / "parquet-train.arrow").rename(target / "name-train.arrow")


def corpus(source: CorpusSource, base: Path) -> list[str]:
    return [row.instruction for row in read_corpus(source, base).rows]


def test_a_corpus_comes_from_texts_zips_folders_and_rows(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_bytes("Zwölf\r\nBoxkämpfer".encode())
    (tmp_path / "texts" / "notes.md").write_text("no part of it")
    with zipfile.ZipFile(tmp_path / "texts" / "a.zip", "w") as archive:
        archive.writestr("x/2.txt", "two")
        archive.writestr("x/1.txt", "one")
        archive.writestr("x/read.me", "no part of it")
    assert corpus(CorpusSource(path="texts"), tmp_path) == ["one", "two", "Zwölf\nBoxkämpfer"]
    assert corpus(CorpusSource(path="texts/b.txt"), tmp_path) == ["Zwölf\nBoxkämpfer"]
    write_lines(tmp_path / "c.jsonl", {"body": "one"}, {"body": ""}, {"body": "two"}, {"body": "three"})
    assert corpus(CorpusSource(path="c.jsonl", text="body", limit=3), tmp_path) == ["one", "two"]


def test_a_corpus_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"no readable zip file .* fetch it again"):
        read_corpus(CorpusSource(path="a.zip"), tmp_path)
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"text 1: b\.txt is not UTF-8 \(byte 0xe9"):
        read_corpus(CorpusSource(path="b.txt"), tmp_path)
    with pytest.raises(DataError, match=r"none of the 1 rows .* is left \(1 malformed\)"):
        read_corpus(CorpusSource(path="b.txt", on_bad_row="skip"), tmp_path)
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        read_corpus(CorpusSource(path="none.txt"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        read_corpus(CorpusSource(path="empty"), tmp_path)
