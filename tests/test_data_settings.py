"""Settings of data: exactly one origin, pinned revisions, and errors that say how to mend them."""

from __future__ import annotations

from typing import Any

import pytest

from distill.data.evalset import EvalSetSettings
from distill.data.settings import DataSettings
from distill.project.errors import SettingsError
from distill.project.settings import parse

ROWS = {"train": {"path": "train.jsonl"}, "valid_rows": 10}


def fault(content: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(content, DataSettings, "profiles/mine.yaml: recipe.data")
    return str(caught.value)


def test_the_world_or_own_rows_are_enough() -> None:
    assert parse({"world": {"train": 10}}, DataSettings, "").world is not None
    data = parse(ROWS | {"rows": {"teacher": 100, "student": 10}}, DataSettings, "")
    assert (data.rows.teacher, data.rows.student, data.on_bad_row) == (100, 10, "error")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "give `train`"),
        ({"world": {}, "train": {"path": "a.jsonl"}}, "remove train"),
        ({"world": {}, "fields": {"output": "answer"}}, "remove fields"),
        ({"train": {"path": "a.jsonl"}}, "exactly one of `valid` and `valid_rows`"),
        (ROWS | {"valid": {"path": "b.jsonl"}}, "exactly one of `valid` and `valid_rows`"),
        (ROWS | {"train": {}}, "exactly one of `path` and `hub`"),
        (
            ROWS | {"train": {"path": "a", "hub": {"id": "b", "revision": "0" * 40}}},
            "exactly one of `path` and",
        ),
        (ROWS | {"train": {"hub": {"id": "b"}}}, "recipe.data.train.hub.revision is missing; add it"),
        (
            ROWS | {"train": {"hub": {"id": "b", "revision": "main"}}},
            "must be pinned: the 40 digits of a commit",
        ),
        (ROWS | {"train": {"path": "a.jsonl", "limit": 0}}, "greater than or equal to 1"),
        (ROWS | {"on_bad_rows": "skip"}, "did you mean `on_bad_row`?"),
        (ROWS | {"fields": {"outputs": "answer"}}, "did you mean `output`?"),
    ],
)
def test_a_fault_is_named_with_its_fix(content: dict[str, Any], said: str) -> None:
    message = fault(content)
    assert said in message
    assert message.startswith("profiles/mine.yaml: recipe.data")


def test_all_faults_are_told_at_once() -> None:
    content = {
        "train": {"path": "a", "limit": 0},
        "valid_rows": 0,
        "on_bad_row": "ignore",
        "rows": {"pupil": 1},
    }
    message = fault(content)
    for place in ("train.limit", "valid_rows", "on_bad_row", "rows.pupil"):
        assert place in message


def test_an_evaluation_set_says_where_it_is_from() -> None:
    with pytest.raises(SettingsError, match=r"licence is missing; add it"):
        parse({"description": "Mine."}, EvalSetSettings, "evalsets/mine.yaml")
