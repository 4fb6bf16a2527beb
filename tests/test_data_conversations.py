"""Conversations are read by role: which turns become a row, and what is counted instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.data.audit import audit_split
from distill.data.rows import Fields, Split, interpret
from distill.data.screen import draw_evalset
from distill.data.tables import Record, RecordTable
from distill.project.errors import DataError, SettingsError
from distill.project.settings import parse

CHAT = Fields(conversation="chat")


def sharegpt(*turns: str) -> list[dict[str, str]]:
    """Turns of ShareGPT's form from `role: text`."""
    return [dict(zip(("from", "value"), turn.split(": "), strict=True)) for turn in turns]


def read(*conversations: Any, fields: Fields = CHAT, skip: bool = True) -> Split:
    records = [Record(number, {"chat": value}) for number, value in enumerate(conversations, start=1)]
    return interpret(RecordTable("rows", "row", records, []), fields, "skip" if skip else "error")


def pair(split: Split) -> tuple[str, str]:
    [row] = split.rows
    return row.instruction, row.references[0]


ONE_PAIR: dict[str, tuple[Any, dict[str, int]]] = {
    "question and answer": (sharegpt("human: Q", "gpt: A"), {}),
    "system turn first": (sharegpt("system: S", "human: Q", "gpt: A"), {"system_turns": 1}),
    "greeting first": (sharegpt("gpt: Hello", "human: Q", "gpt: A"), {"turns_before_the_question": 1}),
    "later turns": (sharegpt("human: Q", "gpt: A", "human: R", "gpt: B", "human: S"), {"later_turns": 3}),
    "a tool in a later turn": (sharegpt("user: Q", "Assistant: A", "user: R", "tool: T"), {"later_turns": 2}),
    "other keys": ([{"speaker": "USER", "text": "Q"}, {"role": "model", "content": "A"}], {}),
    "parts": (
        [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, {"role": "assistant", "content": ["A"]}],
        {},
    ),
    "empty columns of a table": (
        [{"role": "user", "content": "Q", "tool_calls": None}, {"role": "assistant", "content": "A", "tool_calls": []}],
        {},
    ),
    "a list for each key": ({"role": ["user", "assistant"], "content": ["Q", "A"]}, {}),
    "JSON text": (json.dumps(sharegpt("human: Q", "gpt: A")), {}),
    "turns as JSON text": ([json.dumps(turn) for turn in sharegpt("human: Q", "gpt: A")], {}),
}


@pytest.mark.parametrize("name", ONE_PAIR)
def test_the_first_question_and_its_answer_are_the_row(name: str) -> None:
    conversation, unused = ONE_PAIR[name]
    split = read(conversation)
    assert pair(split) == ("Q", "A")
    assert split.unused == unused


LEFT_OUT: dict[str, Any] = {
    "two_questions_in_a_row": sharegpt("human: Q", "human: R", "gpt: A"),
    "no_answer": sharegpt("human: Q"),
    "no_question": sharegpt("system: S", "gpt: A"),
    "tool_call": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}],
    "unknown_role_narrator": sharegpt("human: Q", "narrator: N", "gpt: A"),
    "content_other_than_text": [
        {"role": "user", "content": [{"type": "image"}]},
        {"role": "assistant", "content": "A"},
    ],
    "empty_response": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None}],
    "empty_instruction": [{"role": "user", "content": " "}, {"role": "assistant", "content": "A"}],
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_what_is_no_row_is_counted_with_its_reason(reason: str) -> None:
    split = read(LEFT_OUT[reason], sharegpt("human: Q", "gpt: A"), skip=False)
    assert pair(split) == ("Q", "A")
    assert audit_split(split)["left_out"][reason] == {"count": 1, "rows": [1]}
    assert audit_split(split)["read"] == 2


def test_what_is_no_conversation_is_malformed() -> None:
    good = sharegpt("human: Q", "gpt: A")
    split = read(None, "Q and A", ["Q", "A"], [{"value": "Q"}], good)
    assert [bad.reason for bad in split.malformed] == [
        "a conversation of type NoneType, not a list of turns",
        "a conversation of type str, not a list of turns",
        "turn 1 is of type str, not an object with a role",
        "turn 1 names no role (`role` or `from`)",
    ]
    with pytest.raises(DataError, match="4 malformed rows"):
        read(None, None, None, None, good, skip=False)


def test_roles_can_be_named() -> None:
    conversation = sharegpt("Customer: Q", "Agent: A")
    assert pair(read(conversation, fields=Fields(conversation="chat", user="Customer", assistant="Agent"))) == (
        "Q",
        "A",
    )
    with pytest.raises(DataError, match="1 unknown role Customer"):
        read(conversation)
    with pytest.raises(SettingsError, match="`conversation` holds question and answer; remove output"):
        parse({"conversation": "chat", "output": "o"}, Fields, "fields")
    with pytest.raises(SettingsError, match="are roles of a `conversation`; name its field too"):
        parse({"user": "Customer"}, Fields, "fields")


BY_NUMBER = Fields(instruction="chat.0.value", output="chat.1.value")


def test_a_place_by_number_is_refused_where_roles_differ() -> None:
    plain, system = sharegpt("human: Q", "gpt: A"), sharegpt("system: S", "human: Q", "gpt: A")
    with pytest.raises(
        DataError, match=r"`chat\.0`, whose role is human in 2, system in 1 rows; .*`conversation: chat`"
    ):
        read(plain, system, plain, fields=BY_NUMBER)
    for wrong in (system, sharegpt("gpt: A", "human: Q")):
        with pytest.raises(DataError, match="read turns by their role"):
            read(wrong, wrong, fields=BY_NUMBER)
    split = read(plain, plain + plain, fields=BY_NUMBER)
    assert (len(split.rows), split.unused) == (2, {"later_turns": 2})


def test_a_place_by_number_in_other_lists_is_free() -> None:
    split = read(
        [{"in": "Q", "from": "page 3"}, {"in": "A", "from": "page 5"}],
        fields=Fields(instruction="chat.0.in", output="chat.1.in"),
    )
    assert pair(split) == ("Q", "A")


def test_a_key_that_is_a_number_is_no_place_in_a_list() -> None:
    records = [Record(1, {"0": {"from": "human", "value": "Q"}, "output": "A"})]
    assert pair(interpret(RecordTable("rows", "row", records, []), Fields(instruction="0.value"), "error")) == (
        "Q",
        "A",
    )


def test_the_audit_and_its_table_tell_unused_turns(tmp_path: Path) -> None:
    split = read(sharegpt("system: S", "human: Q", "gpt: A", "human: R"))
    report = audit_split(split)
    assert report["unused"] == {"system_turns": 1, "later_turns": 1}
    assert "unused" not in audit_split(read(sharegpt("human: Q", "gpt: A"))), "older audits stay as they were"
    report |= {"duplicates": {"rows": 0}, "several_references": 0, "without_input": 0}
    labels = list(draw_evalset("own", report).columns[0].cells)
    assert {"system turns unused", "later turns unused"} <= set(labels)


def test_a_file_of_conversations_says_how_to_read_them() -> None:
    with pytest.raises(DataError, match=r"its fields are chat; .*; `conversation: chat` reads turns by role"):
        read(sharegpt("human: Q", "gpt: A"), fields=Fields())
