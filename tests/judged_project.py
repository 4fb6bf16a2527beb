"""A made-up project whose answers say what they are worth, for the tests of judging."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.evaluation.measures import losses_path, predictions_path, traces_path
from distill.evaluation.predictions import write_predictions
from distill.evaluation.traces import Trace, write_traces
from distill.project.files import write_json
from tests.chat_server import ChatServer
from tests.scored_project import put, put_rows, put_tokenizer
from tests.tiny_pipeline import methods

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-test-0123456789abcdef"
WORTHS = {"teacher": (9, 8, 7), "sft": (3, 4, 2), "minillm": (7, 9, 6)}
REFERENCE = 5


def write_params(root: Path, judge: Mapping[str, Any]) -> None:
    content = {
        "families": {"toy": "rows"},
        "datasets": {"own": "rows/own.jsonl", "other": "rows/other.jsonl"},
        **methods("sft", "minillm", students={"tiny": {"family": "toy"}}),
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


def make_judged_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
    put(tmp_path / "profiles/toy.yaml", "recipe: {note: judged, for tests}\n")
    make_measures(tmp_path)
    return tmp_path


def make_measures(root: Path) -> None:
    """What else the results gather, the same of every model."""
    put_tokenizer(root)
    traces = [Trace(0, 10, [1.0], [1.0])]
    for model in WORTHS:
        write_predictions(root / predictions_path(results_home(model), model), {})
        for name in ("own", "other"):
            write_json(root / losses_path(results_home(model), model, name), [1.0, 1.0, 1.0])
        if model != "teacher":
            write_traces(root / traces_path("tiny", model), {"own": traces, "teacher": traces})


def results_home(model: str) -> str:
    return "toy" if model == "teacher" else "tiny"
