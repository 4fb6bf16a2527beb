"""A server in the teacher's place: the real stage `pseudo`, from rows to what SeqKD trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.judging.settings import PseudoSection, pseudo_faults
from distill.project.errors import DistillError, SettingsError
from distill.project.settings import parse
from tests.chat_server import Action, ChatServer, Say, Status, prompt_of, serving
from tests.scored_project import put, put_rows, read, run
from tests.tiny_pipeline import methods

INSTRUCTIONS = [f"Say {word}." for word in ("hello", "thanks", "sorry", "yes")]


def answer(body: dict[str, Any], number: int) -> Action:
    prompt = prompt_of(body)
    if "sorry" in prompt:
        return Say(None, refusal="No apologies.")
    if "yes" in prompt:
        return Say("Yes, and on it goes", finish="length")
    return Say(f" You asked: {prompt}\n")


def write_profile(root: Path, pseudo: dict[str, Any]) -> None:
    recipe = {
        "dtype": "float32",
        "data": {"train": {"path": "train.jsonl"}, "valid": {"path": "valid.jsonl"}},
        "prompt": {
            "with_input": "### {instruction} / {input} =",
            "without_input": "### {instruction} =",
            "max_prompt_tokens": 60,
            "max_response_tokens": 70,
        },
        "tokenizer": {"train": {"vocab_size": 258}},
        "pseudo": pseudo,
    }
    put(root / "profiles/mine.yaml", json.dumps({"recipe": recipe, "hardware": {"threads": 1}}))


def settings(server: ChatServer, **pseudo: Any) -> dict[str, Any]:
    fast = {"first_wait": 0.01, "retries": 1}
    return {"from": "api", "model": "big-1", "base_url": server.url, "max_tokens": 30, "server": fast} | pseudo


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from stages import prepare

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    put(tmp_path / "params.yaml", json.dumps(PARAMS))
    rows = [{"instruction": text, "input": "now" * (i == 1), "output": "Well."} for i, text in enumerate(INSTRUCTIONS)]
    put_rows(tmp_path / "rows/train.jsonl", rows)
    put_rows(tmp_path / "rows/valid.jsonl", [{"instruction": "Bye.", "output": "Bye."}])
    write_profile(tmp_path, {})
    run(monkeypatch, tmp_path, prepare, "mine")
    return tmp_path


PARAMS = {
    "families": {"mine": "rows"},
    "datasets": {},
    **methods("seqkd", students={"tiny": {"family": "mine"}}),
    "evaluation": {},
}


def test_a_server_teaches_in_the_teachers_place(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.text.examples import read_examples
    from distill.text.tokenizers import load_tokenizer
    from stages import pseudo

    prepared = read_examples(project / "data/mine/train.parquet")
    with serving(answer) as server:
        write_profile(project, settings(server, samples_per_prompt=2))
        run(monkeypatch, project, pseudo, "mine")
        asked = sorted(prompt_of(request) for request in server.requests)
        # The students' own template is not sent, and a refusal is not asked for again.
        wanted = ["Say hello.", "Say sorry.", "Say thanks.\n\nnow", "Say yes."]
        assert asked == sorted(wanted * 2)
        assert {request["temperature"] for request in server.requests} == {1.0}
        run(monkeypatch, project, pseudo, "mine")
        assert len(server.requests) == 8

    tokenizer = load_tokenizer(project / "data/mine/tokenizer")
    rows = read_examples(project / "runs/mine/pseudo.parquet", samples=1)
    assert len(read_examples(project / "runs/mine/pseudo.parquet")) == 2 * len(rows)
    # The third prompt was refused; the last response was cut by the server, so there is no end to learn.
    assert [row.prompt_ids for row in rows] == [prepared[i].prompt_ids for i in (0, 1, 3)]
    end = tokenizer.eos_token
    assert [tokenizer.decode(row.response_ids) for row in rows] == [
        f"You asked: Say hello.{end}",
        f"You asked: Say thanks.\n\nnow{end}",
        "Yes, and on it goes",
    ]
    assert rows[0].reference == "You asked: Say hello."
    assert read(project / "runs/mine/pseudo.run.json")["unanswered"] == {"refusal": 2}


def test_half_a_teacher_is_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import pseudo

    with serving(answer) as server:
        write_profile(project, settings(server, budget={"max_calls": 2}))
        with pytest.raises(DistillError, match=r"2 of 4 responses still to buy; those bought are kept"):
            run(monkeypatch, project, pseudo, "mine")
        assert not (project / "runs/mine/pseudo.parquet").exists()
        write_profile(project, settings(server, budget={"dry_run": True}))
        with pytest.raises(DistillError, match=r"dry run: still to buy are 2 calls, about"):
            run(monkeypatch, project, pseudo, "mine")
        write_profile(project, settings(server))
        run(monkeypatch, project, pseudo, "mine")
        assert len(server.requests) == 4
    with serving(lambda body, number: Status(500)) as server:
        write_profile(project, settings(server))
        with pytest.raises(DistillError, match="no reply came to"):
            run(monkeypatch, project, pseudo, "mine")


def think(body: dict[str, Any], number: int) -> Action:
    if "yes" in prompt_of(body):
        return Say("<think>The user wants", finish="length")
    if "thanks" in prompt_of(body):
        return Say([{"type": "text", "text": "Welcome."}], more={"reasoning_content": "Be kind."})
    return Say("<think>\nBe kind.\n</think>\n\nHello.")


@pytest.mark.parametrize(
    ("thinking", "hello"), [("strip", "Hello."), ("keep", "<think>\nBe kind.\n</think>\n\nHello.")]
)
def test_students_learn_the_thinking_only_where_it_is_asked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], thinking: str, hello: str
) -> None:
    from distill.text.examples import read_examples
    from stages import pseudo

    with serving(think) as server:
        write_profile(project, settings(server, thinking=thinking))
        run(monkeypatch, project, pseudo, "mine")
        assert len(server.requests) == 4  # the one that was cut is not bought again
    thanks = hello.replace("Hello", "Welcome")
    rows = read_examples(project / "runs/mine/pseudo.parquet")
    assert [row.reference for row in rows] == [hello, thanks, hello]
    assert read(project / "runs/mine/pseudo.run.json")["unanswered"] == {"reply": 1}
    assert "1 of 4 prompts without a response, reply: cut at max_tokens, its thinking" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Say(None, finish="length", more={"reasoning": "Hm. " * 9}), "no reply .* learned from.*cut at max_tokens"),
        (Say(None, refusal="No."), "no reply .* learned from.*refusal: No."),
        (Status(400, error={"message": "no such field"}), "no reply came to 4 request.*no such field"),
    ],
)
def test_a_server_of_no_use_is_described_by_what_it_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, said: Action, reason: str
) -> None:
    from stages import pseudo

    with serving(lambda body, number: said) as server:
        write_profile(project, settings(server))
        with pytest.raises(DistillError, match=reason):
            run(monkeypatch, project, pseudo, "mine")
        assert len(server.requests) == 4


def test_a_teacher_with_rejected_prompts_is_half_a_teacher(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import pseudo

    def arrears(body: dict[str, Any], number: int) -> Action:
        return Status(400, error={"message": "in arrears"}) if "yes" in prompt_of(body) else Say("Well.")

    with serving(arrears) as server:
        write_profile(project, settings(server))
        with pytest.raises(DistillError, match=r"1 of 4 got no reply from the server.*in arrears"):
            run(monkeypatch, project, pseudo, "mine")
    assert not (project / "runs/mine/pseudo.parquet").exists()


def test_where_responses_come_from_is_a_setting() -> None:
    local = parse({"pseudo": {"samples_per_prompt": 2}}, PseudoSection, "recipe").pseudo
    assert pseudo_faults(local, {}) == []
    drawn = parse({"pseudo": {"from": "teacher"}}, PseudoSection, "recipe").pseudo
    assert drawn is not None
    assert drawn.samples_per_prompt == 1
    assert parse({"pseudo": None}, PseudoSection, "recipe").pseudo is None
    server = parse({"pseudo": {"from": "api", "model": "m"}}, PseudoSection, "recipe").pseudo
    assert "no key; export OPENAI_API_KEY" in pseudo_faults(server, {})[0]
    assert pseudo_faults(server, {"OPENAI_API_KEY": "none"}) == []
    for content, said in (
        ({"from": "apy"}, "`from` must be `teacher` or `api`"),
        ({"from": "api"}, "model is missing"),
        ({"model": "m"}, "model is not a setting"),
        ({"from": "api", "model": "m", "sampling": {"top_k": 5}}, "leave it at 0"),
    ):
        with pytest.raises(SettingsError, match=said):
            parse({"pseudo": content}, PseudoSection, "recipe")
