"""Judging cells of the table with the real commands, against a server on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.project.errors import DataError, DistillError
from distill.scoring import results
from stages import judge as judge_stage
from stages import results as results_stage
from stages import rouge as rouge_stage
from tests.chat_server import Action, ChatServer, Say, Script, Status, after, answers_in, prompt_of, rate, serving
from tests.judged_project import make_judged_project, results_home, settings, write_params
from tests.scored_project import put, read, run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_judged_project(tmp_path, monkeypatch)


def verdicts(root: Path, what: str = "sft") -> list[dict[str, Any]]:
    lines = (root / f"verdicts/{results_home(what)}/{what}/own.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- a cell -------------------------------------------------------------------------------------------


def test_both_orders_cancel_a_liking_for_the_first_place(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        write_params(project, settings(server))
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        assert len(server.requests) == 12
    rows = verdicts(project)
    assert [(row["seed"], row["id"]) for row in rows] == [(seed, i) for seed in (10, 20) for i in range(3)]
    assert [(row["response"], row["reference"]) for row in rows[:3]] == [(3.5, 5.5), (4.5, 5.5), (2.5, 5.5)]
    assert rows[0]["unjudged"] is None
    assert rows[0]["orders"] == [
        {"order": "response_first", "response": 4.0, "reference": 5.0, "reason": "It says so."},
        {"order": "reference_first", "response": 3.0, "reference": 6.0, "reason": "It says so."},
    ]
    summary = read(project / "scores/tiny/sft/own.judge.json")
    assert summary["mean"] == pytest.approx(100 * 10.5 / 16.5, abs=1e-4)
    assert (summary["std"], summary["judged"], summary["pairs"]) == (0.0, 6, 6)
    assert len(summary["per_seed"]) == 2


@pytest.mark.parametrize(("order", "first"), [("response_first", "worth 3"), ("reference_first", "worth 5")])
def test_one_order_a_few_examples_and_one_seed(
    project: Path, monkeypatch: pytest.MonkeyPatch, order: str, first: str
) -> None:
    with serving() as server:
        write_params(project, settings(server, {"orders": order, "seeds": [20], "limit": 2}))
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        assert len(server.requests) == 2
        shown = next(r for r in server.requests if "Ask 0" in prompt_of(r))
        assert answers_in(shown)[0].startswith(first)
        other = next(r for r in server.requests if "Ask 1" in prompt_of(r))
        assert "<request>\nAsk 1\n\ntext\n</request>" in prompt_of(other)
    assert [(row["id"], row["seed"]) for row in verdicts(project)] == [(0, 20), (1, 20)]


def test_a_pair_with_one_order_unjudged_is_unjudged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_one(body: dict[str, Any], number: int) -> Action:
        return Say(None, refusal="no") if answers_in(body)[1].startswith("worth 4 s10") else rate(body, number)

    with serving(refuse_one) as server:
        write_params(project, settings(server))
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
    row = verdicts(project)[1]
    assert (row["response"], row["reference"], row["unjudged"]) == (None, None, "refusal: no")
    assert [order["order"] for order in row["orders"]] == ["response_first"]
    summary = read(project / "scores/tiny/sft/own.judge.json")
    assert (summary["judged"], summary["pairs"], summary["reasons"]) == (5, 6, {"refusal": 1})
    assert summary["per_seed"] == [round(100 * 6 / 11, 4), round(100 * 10.5 / 16.5, 4)]


def test_a_prompt_of_ones_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(project / "mine.txt", "Q: {question}\nA: {first}\nB: {second}\nTwo numbers, please.")
    with serving(lambda body, number: Say("7 8\nB is better.")) as server:
        protocol = {"prompt": "mine.txt", "structured": False, "orders": "response_first", "seeds": [10]}
        write_params(project, settings(server, protocol))
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        assert "Q: Ask 0\nA: worth 3 s10 0\nB: worth 5 r0\nTwo numbers, please." in map(prompt_of, server.requests)
    assert read(project / "scores/tiny/sft/own.judge.json")["mean"] == 87.5


def test_the_same_cell_again_writes_the_same_bytes_and_asks_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [project / "verdicts/tiny/sft/own.jsonl", project / "scores/tiny/sft/own.judge.json"]
    with serving() as server:
        write_params(project, settings(server))
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        before, asked = [file.read_bytes() for file in files], len(server.requests)
        for file in files:
            file.unlink()
        monkeypatch.delenv("OPENAI_API_KEY")  # what is kept needs none
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        assert [file.read_bytes() for file in files] == before
        assert len(server.requests) == asked


def test_a_cell_leaves_nothing_when_the_server_is_of_no_use(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda body, number: Status(401)) as server:
        write_params(project, settings(server))
        with pytest.raises(Exception, match="correct OPENAI_API_KEY"):
            run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
    assert not (project / "verdicts").exists()


@pytest.mark.parametrize("fault", [Status(400, error={"message": "account in arrears"}), Status(500)])
def test_a_cell_that_the_server_did_not_reply_to_has_no_score_and_is_not_done(
    project: Path, monkeypatch: pytest.MonkeyPatch, fault: Status
) -> None:
    script: Script = after(*[Say("8 8")] * 9, then=lambda body, number: fault)
    with serving(script) as server:
        write_params(project, settings(server) | {"server": {"retries": 0, "concurrency": 1}})
        with pytest.raises(DistillError, match=r"^verdicts@tiny-sft-own: \d of 6 got no reply .*(arrears|status 500)"):
            run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        summary = read(project / "scores/tiny/sft/own.judge.json")
        assert "mean" not in summary and summary["judged"] >= 3
        server.script = rate
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
    assert read(project / "scores/tiny/sft/own.judge.json")["judged"] == 6


def test_seeds_that_were_never_sampled_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        write_params(project, settings(server, {"seeds": [10, 30]}))
        with pytest.raises(DataError, match="no answers for seed 30"):
            run(monkeypatch, project, judge_stage, "tiny", "sft", "own")


# --- money --------------------------------------------------------------------------------------------


def test_the_budget_spans_cells_and_results_say_not_judged(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [("toy", "teacher"), ("tiny", "sft"), ("tiny", "minillm")]
    for who, what in cells:
        for name in ("own", "other"):
            run(monkeypatch, project, rouge_stage, who, what, name)

    def judge_all(server: ChatServer, max_calls: int) -> dict[str, Any]:
        write_params(project, settings(server, budget={"max_calls": max_calls}))
        for who, what in cells:
            run(monkeypatch, project, judge_stage, who, what, "own")
        run(monkeypatch, project, results_stage, "tiny")
        gathered: dict[str, Any] = read(project / "results/tiny.json")
        return gathered

    with serving() as server:
        stopped = judge_all(server, 15)
        assert len(server.requests) == 15
        assert "mean" in stopped["teacher"]["own"]["judge"]
        assert stopped["minillm"]["own"]["judge"] == {"judged": 0, "pairs": 6}
        said = capsys.readouterr().out
        assert "verdicts@tiny-minillm-own: not judged" in said
        assert "unjudged, budget: max_calls 15 is reached" in said
        assert "raise judge.budget in params.yaml" in said
        complete = judge_all(server, 1000)
        assert len(server.requests) == 36
    scores = {model: complete[model]["own"]["judge"]["mean"] for model in complete}
    assert scores == {
        "teacher": pytest.approx(100 * 25.5 / 16.5, abs=1e-4),
        "sft": pytest.approx(100 * 10.5 / 16.5, abs=1e-4),
        "minillm": pytest.approx(100 * 23.5 / 16.5, abs=1e-4),
    }
    assert all("judge" not in complete[model]["other"] for model in complete)

    # Off again: the summaries still lie there, and no number is shown.
    write_params(project, {"enabled": False, "datasets": [], "protocol": {"model": "judge-1"}})
    run(monkeypatch, project, results_stage, "tiny")
    off = read(project / "results/tiny.json")
    assert all("judge" not in off[model][name] for model in off for name in ("own", "other"))
    assert results.read_student(project / "params.yaml", "tiny").judged == ()


def test_the_dry_run_tells_what_is_still_to_buy(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "responses/tiny/minillm/own.jsonl").unlink()
    with serving() as server:
        priced = {"input_price": 10.0, "output_price": 100.0}
        write_params(project, settings(server, budget=priced))
        run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        asked = len(server.requests)
        monkeypatch.delenv("OPENAI_API_KEY")
        capsys.readouterr()
        run(monkeypatch, project, judge_stage, "--dry-run")
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("toy teacher own: 12 calls, about ")
        tokens_in = int(lines[0].split("about ")[1].split()[0])
        cost = (tokens_in * 10 + 12 * 50 * 100) / 1e6
        assert lines[0].endswith(f" tokens in, at most 600 out, at most {cost:.4f} US$")
        assert lines[1].startswith("tiny sft own: 0 calls")
        assert lines[2] == "tiny minillm own: no responses yet; run `dvc repro` first"
        assert lines[3].startswith("in all: 12 calls")

        # The same as a setting: the cell is written, without a score.
        write_params(project, settings(server, budget={"dry_run": True}))
        run(monkeypatch, project, judge_stage, "toy", "teacher", "own")
        assert "dry run: toy teacher own: 12 calls" in capsys.readouterr().out
        assert read(project / "scores/toy/teacher/own.judge.json") == {
            "judged": 0,
            "pairs": 6,
            "reasons": {"budget": 6},
        }
        assert len(server.requests) == asked
