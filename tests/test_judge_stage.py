"""Judging cells of the table with the real commands, against a server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ruamel.yaml import YAML

from distill.judging.settings import JudgeSettings, judge_faults
from distill.project.errors import DataError, SettingsError
from distill.project.settings import parse
from distill.scoring import results
from stages import judge as judge_stage
from stages import results as results_stage
from stages import rouge as rouge_stage
from tests.chat_server import Action, ChatServer, Say, Status, answers_in, prompt_of, rate, serving
from tests.declared_stages import dependency_faults, read_pipeline
from tests.scored_project import put, put_rows, read, run

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-test-0123456789abcdef"
WORTHS = {"teacher": (9, 8, 7), "sft": (3, 4, 2), "minillm": (7, 9, 6)}
REFERENCE = 5


def write_params(root: Path, judge: Mapping[str, Any]) -> None:
    content = {
        "students": {"tiny": {"family": "toy"}},
        "families": {"toy": "rows"},
        "datasets": {"own": "rows/own.jsonl", "other": "rows/other.jsonl"},
        "methods": ["sft", "minillm"],
        "seed": 0,
        "evaluation": {"seeds": [10, 20]},
        "judge": judge,
    }
    put(root / "params.yaml", json.dumps(content))  # JSON is YAML


def settings(server: ChatServer, protocol: Mapping[str, Any] | None = None, **judge: Any) -> dict[str, Any]:
    return {
        "enabled": True,
        "datasets": ["own"],
        "protocol": {"model": "judge-1", "base_url": server.url, "max_tokens": 50, "prompt": "judge/prompt.txt"}
        | dict(protocol or {}),
        "budget": {"dry_run": False},
        "server": {"first_wait": 0.01, "retries": 1},
    } | judge


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three examples, two seeds, a teacher and two students; what an answer is worth stands in it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    put(tmp_path / "judge/prompt.txt", (ROOT / "judge/prompt.txt").read_text(encoding="utf-8"))
    references = [[f"worth {REFERENCE} r{i}", "worth 1"] for i in range(3)]
    for name in ("own", "other"):
        rows = [
            {"id": i, "instruction": f"Ask {i}", "input": "text" * (i == 1), "output": output, "category": ""}
            for i, output in enumerate(references)
        ]
        put_rows(tmp_path / f"evaluation/{name}.jsonl", rows)
        for model, worths in WORTHS.items():
            answered = [
                {"id": i, "seed": seed, "text": f"worth {worth} s{seed} {i}", "tokens": 3, "truncated": False}
                for seed in (10, 20)
                for i, worth in enumerate(worths)
            ]
            put_rows(tmp_path / f"responses/{results_home(model)}/{model}/{name}.jsonl", answered)
    return tmp_path


def results_home(model: str) -> str:
    return "toy" if model == "teacher" else "tiny"


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
    assert (summary["std"], summary["judged"], summary["unjudged"]) == (0.0, 6, 0)
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
    assert (summary["judged"], summary["unjudged"], summary["reasons"]) == (5, 1, {"refusal": 1})
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
        assert stopped["minillm"]["own"]["judge"] == {"judged": 0, "unjudged": 6}
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
    assert results.read_experiment(project / "params.yaml", "tiny").judged == ()


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
            "unjudged": 6,
            "reasons": {"budget": 6},
        }
        assert len(server.requests) == asked


# --- the switch ---------------------------------------------------------------------------------------


def test_a_cell_is_refused_while_the_judge_is_off(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        write_params(project, settings(server, enabled=False))
        with pytest.raises(SettingsError, match=r"judge\.enabled is false; set it to true"):
            run(monkeypatch, project, judge_stage, "tiny", "sft", "own")
        assert server.requests == []


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({}, KEY, None),
        ({"enabled": False, "datasets": []}, "", None),
        ({}, "", "no key; export OPENAI_API_KEY"),
        ({}, "  ", "no key; export OPENAI_API_KEY"),
        ({"budget": {"dry_run": True}}, "", None),
        ({"datasets": []}, KEY, "judge.datasets is empty; name evaluation sets there"),
        ({"enabled": False}, KEY, "judge.enabled is false; set it to true or empty the list"),
        ({"datasets": ["own", "own"]}, KEY, "own stands there twice"),
        ({"datasets": ["onw"]}, KEY, "onw is not in datasets; the names there: own, other"),
        ({"protocol": {"model": "m", "seeds": [10, 30]}}, KEY, "30 is not in evaluation.seeds"),
    ],
)
def test_faults_are_found_before_any_work(change: dict[str, Any], key: str, said: str | None) -> None:
    content = {"enabled": True, "datasets": ["own"], "protocol": {"model": "m"}} | change
    judge = parse(content, JudgeSettings, "judge")
    faults = judge_faults(judge, ["own", "other"], [10, 20], {"OPENAI_API_KEY": key})
    assert len(faults) == (said is not None)
    assert said is None or said in faults[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"protocol": {}}, r"judge.protocol.model is missing"),
        ({"protocol": {"modle": "m"}}, r"did you mean `model`"),
        ({"protocol": {"model": "m", "base_url": "127.0.0.1:80"}}, "must be an address like"),
        ({"protocol": {"model": "m", "base_url": "http://me:secret@host/v1"}}, "must hold no key or password"),
        ({"protocol": {"model": "m"}, "budget": {"max_cost": 5}}, "`max_cost` needs `input_price`"),
        ({"protocol": {"model": "m"}, "budget": {"input_price": 5}}, "give both"),
        ({"protocol": {"model": "m"}, "server": {"concurrency": 0}}, "greater than or equal to 1"),
    ],
)
def test_settings_out_of_range_are_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse(content, JudgeSettings, "judge")


# --- DVC ----------------------------------------------------------------------------------------------


def copy_of_the_pipeline(root: Path, judge: Mapping[str, Any]) -> None:
    """dvc.yaml, params.yaml, profiles and code of the repository, with another `judge` section."""
    from dvc.repo import Repo

    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    for name in ("profiles", "evalsets", "distill", "stages", "judge"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    put(root / "params.yaml", json.dumps(params | {"judge": dict(judge)}))
    Repo.init(str(root), no_scm=True).close()


def test_dvc_has_judging_stages_for_the_sets_named_and_else_none(tmp_path: Path) -> None:
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert params["judge"]["enabled"] is False
    copy_of_the_pipeline(tmp_path, params["judge"] | {"datasets": []})
    assert not [stage.name for stage in read_pipeline(tmp_path) if "verdicts" in stage.name]

    some = list(params["datasets"])[:2]
    put(tmp_path / "params.yaml", json.dumps(params | {"judge": params["judge"] | {"datasets": some}}))
    stages = read_pipeline(tmp_path)
    judging = [stage for stage in stages if "verdicts" in stage.name]
    models = len(params["families"]) + len(params["students"]) * len(params["methods"])
    assert len(judging) == 2 * models
    assert [fault for stage in judging for fault in dependency_faults(stage, ROOT)] == []
    tracked = {key for stage in judging for _, key in stage.params}
    assert tracked == {"judge.protocol", "judge.budget", "seed"}
    outs = [PurePosixPath(out) for stage in stages for out in stage.outs]
    mine = [PurePosixPath(out) for stage in judging for out in stage.outs]
    assert all(a == b or not (a.is_relative_to(b) or b.is_relative_to(a)) for a in mine for b in outs)
    assert len(set(mine)) == len(mine) == 4 * models


def test_dvc_reruns_a_cell_for_a_higher_budget_and_buys_only_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repro(budget: Mapping[str, Any]) -> str:
        judge = settings(server, budget=budget, datasets=["toy_id"])
        put(project / "params.yaml", json.dumps(params | {"judge": judge}))
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "--single-item", "verdicts@tiny-sft-toy_id"],
            cwd=project,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with serving() as server:
        copy_of_the_pipeline(project, settings(server))
        params = YAML(typ="safe").load((project / "params.yaml").read_text(encoding="utf-8"))
        shutil.copy(project / "evaluation/own.jsonl", project / "evaluation/toy_id.jsonl")
        shutil.copy(project / "responses/tiny/sft/own.jsonl", project / "responses/tiny/sft/toy_id.jsonl")
        assert "verdicts@tiny-sft-toy_id: not judged" in repro({"max_calls": 5})
        assert len(server.requests) == 5
        assert "verdicts@tiny-sft-toy_id: 63.6 ± 0.0" in repro({"max_calls": 50})
        assert len(server.requests) == 12
    for file in project.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
