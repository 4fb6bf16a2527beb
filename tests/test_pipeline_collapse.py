"""A stage whose run goes wrong: the sentence, the batch in readable form, the best checkpoint, and how to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.models.loading import load_model
from distill.project.files import read_json, read_jsonl
from distill.text.tokenizers import load_tokenizer
from tests.tiny_pipeline import MINI, SMALL, edit, in_folder
from tests.training_stages import minillm, sft

pytest_plugins = ["tests.stage_fixtures"]

OUTPUT = "runs/small/minillm"
EVIDENCE = ".resume/minillm@small.diverged"


def run(project: Path, capsys: pytest.CaptureFixture[str], stage: Any, *arguments: str) -> tuple[int, str]:
    """Exit code of a stage, and what it said."""
    capsys.readouterr()
    try:
        in_folder(project)(stage.main, *arguments)
    except SystemExit as ended:
        return int(str(ended.code)), capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.fixture
def doomed(project: Path) -> Path:
    """A project whose MiniLLM freezes in its first collection: a thousand times too high a rate."""
    edit(project / MINI, f"{SMALL}.minillm.learning_rate", 1.0)
    edit(project / MINI, f"{SMALL}.minillm.warmup_steps", 0)
    edit(project / MINI, f"{SMALL}.minillm.max_steps", 20)
    return project


def test_a_collapsed_run_stops_with_its_evidence(doomed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(doomed, capsys, minillm, "small", "minillm")
    assert code == 2
    assert f"the batch at hand and the best checkpoint so far: {EVIDENCE}\n" in said
    assert "error: step 12: the " in said and "lower `learning_rate` (now 1)" in said
    assert not (doomed / OUTPUT).exists()
    assert read_json(doomed / EVIDENCE / "fault.json")["fault"] in said
    tokenizer = load_tokenizer(doomed / "data/mini/tokenizer")
    rows = read_jsonl(doomed / EVIDENCE / "batch.jsonl")
    assert len(rows) == 16
    for row in rows:
        assert row["prompt"] == tokenizer.decode(row["prompt_ids"])
        assert row["response"] == tokenizer.decode(row["response_ids"])
        assert len(row["response_ids"]) == len(row["logprobs"]) == len(row["reverse_kl"])
    best = read_json(doomed / EVIDENCE / "best/meta.json")
    assert best["best_step"] < 12
    model = load_model(doomed / EVIDENCE / "best", "float32")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_warned_run_goes_on_to_what_an_unwatched_one_comes_to(
    doomed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(doomed / MINI, "hardware.on_collapse", "ignore")
    code, said = run(doomed, capsys, minillm, "small", "minillm")
    assert code == 0 and "entropy" not in said
    assert not (doomed / EVIDENCE).exists()
    expected = load_file(doomed / OUTPUT / "model.safetensors")
    # Stopped first, then told to go on: from the stored state, as the recipe is the same.
    edit(doomed / MINI, "hardware.on_collapse", "stop")
    assert run(doomed, capsys, minillm, "small", "minillm")[0] == 2
    edit(doomed / MINI, "hardware.on_collapse", "warn")
    code, said = run(doomed, capsys, minillm, "small", "minillm")
    assert code == 0
    assert said.count("warning: step ") == 1
    assert read_json(doomed / ".resume/progress/minillm@small.json")["resumed_from"] == 12
    assert (doomed / EVIDENCE / "batch.jsonl").exists()
    found = load_file(doomed / OUTPUT / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_sound_run_leaves_no_evidence_and_removes_an_older_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / EVIDENCE).mkdir(parents=True)
    (project / EVIDENCE / "fault.json").write_text(json.dumps({"fault": "of a run before"}))
    assert run(project, capsys, minillm, "small", "minillm")[0] == 0
    assert not (project / EVIDENCE).exists()


def test_a_loss_that_is_no_number_leaves_its_batch(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(project / "runs/small/base/model.safetensors")
    huge = {name: weight * 1e30 for name, weight in weights.items()}
    save_file(huge, project / "runs/small/base/model.safetensors", {"format": "pt"})
    code, said = run(project, capsys, sft, "small", "sft")
    assert code == 2 and "the loss is nan" in said
    assert "the batch at hand: .resume/sft@small.diverged\n" in said
    rows = read_jsonl(project / ".resume/sft@small.diverged/batch.jsonl")
    assert len(rows) == 32
    tokenizer = load_tokenizer(project / "data/mini/tokenizer")
    for row in rows:
        assert row["input"] == tokenizer.decode(row["input_ids"])
        assert row["input"].endswith(row["response"])
