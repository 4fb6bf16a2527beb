"""MiniLLM where student and teacher are adapters of one base: it is loaded once, and each adapter is its owner's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from distill.models.checkpoints import Adapted, save_checkpoint
from distill.models.loading import load_model
from distill.models.lora import has_adapter, trainable
from distill.models.merging import with_shared_weights
from distill.models.settings import LoraSettings
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.pair import ModelPair, load_pair
from distill.on_policy.state import restore, store
from distill.project.errors import ModelError
from distill.project.files import write_json
from distill.project.references import Reference
from distill.runs.resume import ResumeStore
from tests.test_engine_lora import TOKENIZER, adapted, logits
from tests.tiny_models import EOS, opened_models, tiny_model


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2], [9, 8]]
LORA = LoraSettings(r=2)


@pytest.fixture
def finished() -> None:
    """base/, and on it the finished teacher and student/init, each with an adapter of its own."""
    tiny_model(dtype=torch.float32).save_pretrained("base")
    for folder, seed in (("teacher", 7), ("init", 3)):
        save_checkpoint(adapted(seed=seed), TOKENIZER, Path(folder), {}, Adapted(LORA, Reference(path="base")))


def loaded(lora: LoraSettings | None = LORA) -> ModelPair:
    return load_pair(Path("init"), Path("teacher"), lora, "float32", torch.device("cpu"), 0)


def run_of(pair: ModelPair, steps: int = 6) -> OnPolicyRun:
    chosen: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 1, "max_steps": steps, "evaluate_every": 2}
    chosen |= {"rollouts": 8, "minibatch": 4, "inner_epochs": 2, "lm_coef": 0.1, "lm_batch": 2, "lm_length": 6}
    task = Task(PROMPTS, 6, EOS, torch.arange(100) % 11)
    settings = MiniLLMSettings(**chosen, lora=LORA)
    start = {name: p.detach().clone() for name, p in trainable(pair.student).items()}

    def distance(model: PreTrainedModel) -> dict[str, float]:
        """From the start: so the weights that are kept are trained ones."""
        return {"rouge_l": sum(float((p - start[name]).detach().norm()) for name, p in trainable(model).items())}

    return OnPolicyRun(pair.student, pair.teacher, task, MiniLLM(), settings, Execution(4, 8), 0, distance)


@pytest.mark.usefixtures("finished")
def test_one_base_is_loaded_once_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_models(monkeypatch)
    pair = loaded()
    assert pair.shared
    assert opened == ["base"]
    ours, theirs = (dict(model.named_parameters()) for model in (pair.student, pair.teacher))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert (parameter.data_ptr() == theirs[name].data_ptr()) == (".lora_" not in name), name


@pytest.mark.usefixtures("finished")
def test_the_teacher_has_the_teachers_adapter_and_keeps_it() -> None:
    pair = loaded()
    torch.testing.assert_close(logits(pair.teacher), logits(adapted(seed=7)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(pair.student), logits(adapted(seed=3)), rtol=1e-5, atol=1e-5)
    assert (logits(pair.teacher) - logits(pair.student)).abs().max() > 0.1
    before = logits(pair.teacher)
    started = logits(pair.student)
    run_of(pair).train()
    assert torch.equal(logits(pair.teacher), before), "training the student changed the teacher"
    assert (logits(pair.student) - started).abs().max() > 1e-4
    base = dict(tiny_model(dtype=torch.float32).named_parameters())
    for name, parameter in pair.student.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), f"{name} of the base changed"


@pytest.mark.usefixtures("finished")
def test_sharing_the_base_changes_no_update() -> None:
    """Beside two models loaded apart: same losses to rounding, since a merged teacher rounds differently."""
    together, apart = loaded(), loaded()
    apart = ModelPair(apart.student, load_model(Path("teacher")), apart.adapted, shared=False)
    runs = [run_of(pair) for pair in (together, apart)]
    for run in runs:
        run.train()
    for quantity in ("loss", "grad_norm", "reverse_kl"):
        mine, theirs = ([value for _, value in run.curves.points[quantity]] for run in runs)
        assert mine == pytest.approx(theirs, rel=1e-3), quantity
    for one, other in zip(*(trainable(run.student).values() for run in runs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.usefixtures("finished")
def test_a_stopped_run_of_an_adapter_goes_on_to_the_same_bytes() -> None:
    whole = run_of(loaded())
    whole.train()
    states = ResumeStore("x", "a")

    def killed(run: OnPolicyRun) -> None:
        if run.step == 3:
            store(run, states)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(loaded()).train(killed)
    state = states.load()
    assert state is not None
    assert all(".lora_" in name for name in state.tensors["student"])
    again = run_of(loaded())
    restore(again, states)
    again.train()
    for one, other in zip(trainable(again.student).values(), trainable(whole.student).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("finished")
def test_what_cannot_share_does_not() -> None:
    full = loaded(None)
    assert not full.shared and full.adapted is None and not has_adapter(full.student)
    other_shape = loaded(LoraSettings(r=3))
    assert not other_shape.shared, "a fresh adapter stands on the merged start, which is no longer the base"
    torch.testing.assert_close(logits(other_shape.student), logits(adapted(seed=3)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="write `save: merged`"):
        loaded(LoraSettings(r=3, save="adapter"))
    shutil.rmtree("teacher")
    tiny_model(seed=5, dtype=torch.float32).save_pretrained("teacher")
    assert not loaded().shared


def test_a_fresh_adapter_on_the_teachers_own_base_shares_it() -> None:
    """Self-distillation: the teacher is the base itself, or an adapter of it, and the student starts from it."""
    tiny_model(dtype=torch.float32).save_pretrained("base")
    for folder in ("init", "teacher"):
        Path(folder).mkdir()
        write_json(Path(folder) / "reference.json", {"path": "base"})
    pair = loaded()
    assert pair.shared
    assert torch.equal(logits(pair.student), logits(pair.teacher))
    assert trainable(pair.student)
    assert not has_adapter(pair.teacher)


def test_an_adapter_of_the_output_head_is_not_gone_on_with() -> None:
    """MiniLLM's loss takes the weight of the head itself, past the addition to it."""
    tiny_model("llama", dtype=torch.float32).save_pretrained("base")
    shape: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "lm_head"]}
    get_peft_model(tiny_model("llama", dtype=torch.float32), LoraConfig(**shape)).save_pretrained("adapter")
    for folder, content in (("init", {"path": "base", "adapter": {"path": "adapter"}}), ("teacher", {"path": "base"})):
        Path(folder).mkdir()
        write_json(Path(folder) / "reference.json", content)
    with pytest.raises(ModelError, match=r"adapter takes in lm_head, the output head .* leave it out"):
        loaded(LoraSettings(r=2, alpha=4, targets=("q_proj", "lm_head")))


def test_shared_tensors_move_together() -> None:
    model = tiny_model(dtype=torch.float32)
    other = with_shared_weights(model)
    with torch.no_grad():
        next(iter(model.parameters())).add_(1.0)
    assert torch.equal(logits(model), logits(other))
