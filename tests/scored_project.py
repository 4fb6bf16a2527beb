"""A made-up project with one student, scored by the real stages, which tests of results and report use."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from distill.evaluation.measures import losses_path, predictions_path, traces_path
from distill.evaluation.predictions import predict, write_predictions
from distill.evaluation.traces import Trace, write_traces
from distill.project.files import write_json
from distill.scoring import results
from stages import results as results_stage
from stages import rouge as rouge_stage

METHODS = ("sft", "minillm", "kd")
LABELS = {"sft": "SFT", "minillm": "MiniLLM", "kd": "KD"}
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
        f"methods: [{', '.join(METHODS)}]\nseed: 0\nfamilies: {{toy: src}}\n",
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
    make_measures(root, rng)
    for method, label in LABELS.items():
        put(root / f"runs/tiny/{method}/meta.json", json.dumps({"label": label}))
    put(
        root / "runs/tiny/sft.curves/loss.tsv",
        "step\tloss\n" + "".join(f"{s}\t{1 / s}\n" for s in range(1, 1001)),
    )
    put(root / "runs/tiny/minillm.curves/reverse_kl.tsv", "step\treverse_kl\n1\t2.5\n2\t1.5\n")
    put(root / "runs/toy/teacher.curves/learning_rate.tsv", "step\tlearning_rate\n1\t1e-3\n2\t5e-4\n")


def make_measures(root: Path, rng: random.Random) -> None:
    """What the stages that run models would leave."""
    noise = {"teacher": 0.1, "sft": 0.8, "minillm": 0.3, "kd": 0.6}
    for method in METHODS:
        own, teachers = (
            [
                Trace(i, seed, [rng.random() * noise[method]] * length, [rng.random()] * length)
                for seed in (10, 20)
                for i, length in enumerate(rng.choices(range(3, 9), k=20))
            ]
            for _ in ("own", "teacher")
        )
        write_traces(root / traces_path("tiny", method), {"own": own, "teacher": teachers})
    answers = [rng.randrange(2) for _ in range(50)]
    for model in QUALITY:
        logprobs = np.array([[rng.gauss(a == c, noise[model]) - 3 for c in (0, 1)] for a in answers])
        write_predictions(root / predictions_path(home(model), model), {"whether": predict(logprobs, answers)})
    references = {name: [rng.random() for _ in range(30)] for name in SETS}
    for name, own_losses in references.items():
        for model in QUALITY:
            write_json(root / losses_path(home(model), model, name), [noise[model] + value for value in own_losses])
    put_tokenizer(root)


def put_tokenizer(root: Path) -> None:
    """The family's tokenizer, which counts words."""
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(("[UNK]", *WORDS))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    put(root / "data/toy/tokenizer/tokenizer.json", tokenizer.to_str())


def run(monkeypatch: pytest.MonkeyPatch, root: Path, stage: Any, *arguments: str) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    stage.main()


def score_project(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    for model in QUALITY:
        for name in SETS:
            run(monkeypatch, root, rouge_stage, home(model), model, name)
    run(monkeypatch, root, results_stage, "tiny")


def made_and_scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose scores and results are made."""
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        score_project(monkeypatch, root)
    return root


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def experiment_of(root: Path) -> results.StudentTable:
    return results.read_student(root / "params.yaml", "tiny")
