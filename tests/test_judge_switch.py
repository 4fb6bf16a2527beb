"""Switching the judge on: what is found before any work, and what DVC makes of it."""

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
from distill.project.errors import SettingsError
from distill.project.settings import parse
from stages import judge as judge_stage
from tests.chat_server import serving
from tests.declared_stages import copy_of_the_pipeline, dependency_faults, read_pipeline
from tests.judged_project import KEY, ROOT, make_judged_project, settings, write_params
from tests.scored_project import put, run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_judged_project(tmp_path, monkeypatch)


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
