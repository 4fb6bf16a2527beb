"""LoRA through the stages: teacher and student as adapters of one base, MiniLLM going on with the student's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill.models.loading import load_model
from distill.text.tokenizers import load_tokenizer
from stages import base, evalset, respond
from tests.test_pipeline_stand_in import given, refusal
from tests.tiny_models import opened_models
from tests.tiny_pipeline import MINI, ROOT, SMALL, Stage, edit, in_folder
from tests.training_stages import kd, minillm, sft

pytest_plugins = ["tests.stage_fixtures"]

LORA = {"r": 2, "alpha": 16}
IDS = torch.arange(1, 9)[None]


@pytest.fixture
def project(project: Path) -> Path:
    """The small project with both models taken from one folder, `given/base`."""
    tokenizer = load_tokenizer(project / "data/mini/tokenizer")
    given(project / "given/base", len(tokenizer), 0)
    tokenizer.save_pretrained(project / "given/base")
    for place in ("recipe.teacher", SMALL):
        edit(project / MINI, f"{place}.model", {"source": "given/base"})
    for section in ("recipe.teacher.sft", f"{SMALL}.init", f"{SMALL}.kd", f"{SMALL}.minillm"):
        edit(project / MINI, f"{section}.lora", LORA)
    edit(project / MINI, f"{SMALL}.minillm.max_steps", 2)
    edit(project / MINI, f"{SMALL}.minillm.evaluate_every", 1)
    return project


def adapter(project: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(project / "runs" / name / "adapter/adapter_model.safetensors")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
        return found


@pytest.fixture
def stage(project: Path) -> Stage:
    run = in_folder(project)
    for who in ("mini", "small"):
        run(base.main, who)
    return run


def test_teacher_and_student_are_adapters_of_one_base(
    project: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(sft.main, "mini", "teacher")
    stage(sft.main, "small", "init")
    stage(kd.main, "small", "kd")
    opened = opened_models(monkeypatch)
    stage(minillm.main, "small", "minillm")
    assert opened == ["given/base"], "MiniLLM loads the base, once, and nothing else"
    assert json.loads((project / "runs/small/minillm.run.json").read_text())["shared_base"] is True
    init, teacher, done = (adapter(project, name) for name in ("small/init", "mini/teacher", "small/minillm"))
    assert init.keys() == done.keys() == teacher.keys()
    assert any(not torch.equal(init[name], teacher[name]) for name in init)
    distance = max(float((done[name] - init[name]).abs().max()) for name in init)
    assert distance < 0.1, "it went on with the adapter of its start: two steps do not lead far"
    monkeypatch.undo()
    for name in ("mini/teacher", "small/init", "small/kd", "small/minillm"):
        folder = project / "runs" / name
        by_peft = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(project / "given/base"), folder / "adapter"
        )
        plain = AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(logits(plain), logits(by_peft), rtol=1e-4, atol=1e-5, msg=name)
        meta = json.loads((folder / "meta.json").read_text())
        assert meta["settings"]["lora"]["r"] == 2


def test_the_adapter_alone_is_a_checkpoint_that_later_stages_read(project: Path, stage: Stage) -> None:
    edit(project / MINI, "recipe.teacher.sft.lora", {**LORA, "save": "adapter"})
    stage(sft.main, "mini", "teacher")
    folder = project / "runs/mini/teacher"
    assert not list(folder.glob("*.safetensors"))
    (project / "evalsets").symlink_to(ROOT / "evalsets")
    stage(evalset.main, "toy_id")
    stage(respond.main, "mini", "teacher", "toy_id")
    stage(kd.main, "small", "kd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert (logits(load_model(folder)) - logits(load_model(Path("given/base")))).abs().max() > 0


def test_an_adapter_alone_of_a_base_trained_here_is_refused_before_it_trains(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = in_folder(project)  # the bases are still those that were initialised here
    edit(project / MINI, f"{SMALL}.init.lora", {**LORA, "save": "adapter"})
    assert "this one was trained here, so write `save: merged`" in refusal(run, capsys, sft.main, "small", "init")
    assert not (project / ".resume/init@small").exists()
