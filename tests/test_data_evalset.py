"""Evaluation sets: the one form they are brought into, and the sets that are shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.data.evalset import EvalSetSettings, as_examples, audit_evalset, read_evalset
from distill.project.errors import DataError
from distill.project.settings import parse, read_yaml

EVALSETS = sorted(Path(__file__).resolve().parents[1].joinpath("evalsets").glob("*.yaml"))
ROWS: list[dict[str, Any]] = [
    {"q": "Name a bird.", "context": "", "a": ["an owl", "a heron"], "kind": "list"},
    {"q": "Say nothing.", "a": "", "kind": "odd"},
    {"q": "Shout it.", "context": "hey", "a": "HEY", "kind": "rewrite"},
]


def settings(**more: Any) -> EvalSetSettings:
    fields = {"instruction": "q", "input": "context", "output": "a", "category": "kind"}
    return EvalSetSettings.model_validate({"description": "d", "licence": "l", "fields": fields} | more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_every_reference_is_kept_and_ids_count_the_kept_rows(file: Path) -> None:
    assert as_examples(read_evalset(settings(), file)) == [
        {
            "id": 0,
            "instruction": "Name a bird.",
            "input": "",
            "output": ["an owl", "a heron"],
            "category": "list",
        },
        {"id": 1, "instruction": "Shout it.", "input": "hey", "output": ["HEY"], "category": "rewrite"},
    ]


def test_the_report_counts_what_was_left_out(file: Path) -> None:
    report = audit_evalset("mine", settings(), read_evalset(settings(), file))
    assert (report["read"], report["kept"]) == (3, 2)
    assert report["left_out"]["empty_response"] == {"count": 1, "rows": [2]}
    assert (report["several_references"], report["without_input"]) == (1, 1)
    assert report["duplicates"] == {"rows": 0, "prompts": 0}


def test_a_limit_takes_the_first_rows(file: Path) -> None:
    assert len(read_evalset(settings(limit=1), file).rows) == 1


def test_a_set_may_be_one_file_of_a_folder(file: Path) -> None:
    assert read_evalset(settings(file="set.jsonl"), file.parent) == read_evalset(settings(), file)
    with pytest.raises(DataError, match="say by `file` which of its files is the set"):
        read_evalset(settings(), file.parent)
    with pytest.raises(DataError, match="does not exist; correct the path"):
        read_evalset(settings(file="other.jsonl"), file.parent)


def test_a_malformed_row_stops_unless_skipped(file: Path) -> None:
    file.write_text(file.read_text() + "{broken\n")
    with pytest.raises(DataError, match="line 4: not JSON"):
        read_evalset(settings(), file)
    assert len(read_evalset(settings(on_bad_row="skip"), file).malformed) == 1


@pytest.mark.parametrize("path", EVALSETS, ids=lambda path: path.stem)
def test_every_shipped_set_has_valid_settings(path: Path) -> None:
    parse(read_yaml(path), EvalSetSettings, str(path))


REAL = {
    "dolly": ("minillm/dolly/valid.jsonl", 500, 1),
    "self_inst": ("minillm/self-inst/valid.jsonl", 242, 1),
    "vicuna": ("minillm/vicuna/valid.jsonl", 80, 1),
    "sni": ("minillm/sinst/11_/valid.jsonl", 1694, 20),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_sets_are_read_whole(name: str, shared_data: Path) -> None:
    file, rows, most_references = REAL[name]
    path = next(path for path in EVALSETS if path.stem == name)
    split = read_evalset(parse(read_yaml(path), EvalSetSettings, name), shared_data / file)
    assert (split.read, len(split.rows)) == (rows, rows)
    assert max(len(row.references) for row in split.rows) == most_references
    assert all(row.category for row in split.rows)
