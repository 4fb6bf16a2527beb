"""A made-up project with one student, scored by the real stages, which tests of results and report use."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.scoring import results
from stages import results as results_stage
from stages import rouge as rouge_stage

METHODS = ("sft", "minillm", "kd")
SETS = ("toy_id", "toy_shift")
QUALITY = {"teacher": 0.9, "sft": 0.4, "minillm": 0.7, "kd": 0.69}
WORDS = (
    "trader",
    "river",
    "stone",
    "green",
    "walked",
    "houses",
    "quickly",
    "market",
    "seven",
    "apples",
    "gave",
)
NOTE = "A toy: <numbers> show that the method works."
ATTACK = '<script>document.title = "run"</script><img src="https://example.org/x.png">'


def home(model: str) -> str:
    return "toy" if model == "teacher" else "tiny"


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def put_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    put(path, "".join(json.dumps(row) + "\n" for row in rows))


def make_project(root: Path, examples: int = 60) -> None:
    """params, profile, evaluation sets, responses, curves and divergences of one student."""
    put(
        root / "params.yaml",
        "students: {tiny: {family: toy}}\ndatasets: {toy_id: a.jsonl, toy_shift: b.jsonl}\n"
        f"methods: [{', '.join(METHODS)}]\nseed: 0\n",
    )
    put(root / "profiles/toy.yaml", f"recipe: {{note: '{NOTE}'}}\nhardware: {{}}\n")
    rng = random.Random(0)
    for name in SETS:
        references = [rng.choices(WORDS, k=rng.randint(5, 15)) for _ in range(examples)]
        put_rows(
            root / f"evaluation/{name}.jsonl",
            [
                {
                    "id": i,
                    "instruction": f"Ask {ATTACK} {i}",
                    "input": "",
                    "output": [" ".join(words)],
                    "category": "x",
                }
                for i, words in enumerate(references)
            ],
        )
        for model, quality in QUALITY.items():
            rows = [
                {
                    "id": i,
                    "seed": seed,
                    "text": ATTACK if i == 0 else " ".join(w if rng.random() < quality else "x" for w in words),
                    "tokens": len(words),
                    "truncated": False,
                }
                for seed in (10, 20, 30)
                for i, words in enumerate(references)
            ]
            put_rows(root / f"responses/{home(model)}/{model}/{name}.jsonl", rows)
    divergences = {model: {"reverse_kl": {"mean": 0.123456, "std": 0.01}} for model in METHODS}
    put(root / "scores/tiny/divergence.json", json.dumps(divergences))
    put(
        root / "runs/tiny/sft.curves/loss.tsv",
        "step\tloss\n" + "".join(f"{s}\t{1 / s}\n" for s in range(1, 1001)),
    )
    put(root / "runs/tiny/minillm.curves/reverse_kl.tsv", "step\treverse_kl\n1\t2.5\n2\t1.5\n")
    put(root / "runs/toy/teacher.curves/learning_rate.tsv", "step\tlearning_rate\n1\t1e-3\n2\t5e-4\n")


def run(monkeypatch: pytest.MonkeyPatch, root: Path, stage: Any, *arguments: str) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    stage.main()


def score_project(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    for model in QUALITY:
        for name in SETS:
            run(monkeypatch, root, rouge_stage, home(model), model, name)
    run(monkeypatch, root, results_stage, "tiny")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def experiment_of(root: Path) -> results.Experiment:
    return results.read_experiment(root / "params.yaml", "tiny")
