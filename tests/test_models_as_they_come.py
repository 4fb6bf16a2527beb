"""Causal language models as others save them: tied or not, bfloat16, in shards, with padded vocabularies, any BOS."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.utils import logging

from commands import check
from distill.generation.decode import sample_responses
from distill.models.loading import load_model
from distill.models.parts import head, require_plain_head
from distill.objectives import kd
from distill.objectives.minillm.objective import MiniLLM
from distill.on_policy.rollouts import collect
from distill.text.tokenizers import learn_bpe
from stages import base, divergence, evalset, prepare, pseudo, respond, teacher_samples
from tests.test_data_prompts import CHAT, tokenizer
from tests.test_engine_losses import minillm as minillm_settings
from tests.test_engine_supervised import trained
from tests.test_pipeline_models import only_pickle
from tests.test_pipeline_stand_in import refusal, whole_params
from tests.tiny_models import ARCHITECTURES, EOS, tiny_model
from tests.tiny_pipeline import MINI, PROFILE, ROOT, edit, in_folder, set_methods
from tests.training_stages import kd as kd_stage
from tests.training_stages import minillm, seqkd, sft

IDS = torch.arange(1, 9)[None]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_in_shards_and_in_half_precision(architecture: str, tied: bool) -> None:
    """What stands in bfloat16 is the same number in float32."""
    saved = tiny_model(architecture, vocabulary=300, dtype=torch.bfloat16, tie_word_embeddings=tied)
    saved.save_pretrained("model", max_shard_size="8KB")
    assert len(list(Path("model").glob("*.safetensors"))) > 1, "one shard shows nothing"
    model = load_model(Path("model"))
    assert model.dtype == torch.float32
    weights = dict(saved.named_parameters())
    assert len(weights) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name].float()), name
    assert (head(model).weight is model.get_input_embeddings().weight) == tied
    require_plain_head(model)
    assert load_model(Path("model"), "bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("written_out", ["gelu_new", "gelu_fast"])
def test_a_gelu_that_is_written_out_is_loaded_as_one_kernel(written_out: str) -> None:
    """Same numbers and gradients, and the config says what it said."""
    stock = tiny_model(vocabulary=300, width=32, activation_function=written_out)
    stock.save_pretrained("model")
    loaded = load_model(Path("model"), "float64")
    kinds = [
        {type(part).__name__ for name, part in model.named_modules() if name.endswith(".act")}
        for model in (stock, loaded)
    ]
    assert kinds == [{type(ACT2FN[written_out]).__name__}, {"GELUTanh"}]
    assert loaded.config.activation_function == written_out
    found = []
    for model in (stock, loaded):
        logits = model(input_ids=IDS).logits
        logits.square().sum().backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    loaded.save_pretrained("again")
    assert json.loads(Path("again/config.json").read_text())["activation_function"] == written_out


# --- padded vocabularies (trap 5) ---------------------------------------------------------------------------------

SIZES = [(11, 14), (14, 11), (11, 11)]


@pytest.mark.parametrize(("ours", "theirs"), SIZES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mixing_and_rewards_are_on_the_shared_ids(architecture: str, ours: int, theirs: int) -> None:
    student = tiny_model(architecture, vocabulary=ours, seed=0)
    teacher = tiny_model(architecture, vocabulary=theirs, seed=1, width=24)
    prompts = [[3], [1, EOS, 2], [9, 8, 7, 6]]
    choice = minillm_settings(rollouts=6, minibatch=6, teacher_mix_alpha=0.4)
    sizes: dict[str, Any] = {"number": 0, "seed": 0, "max_new_tokens": 6, "eos_id": EOS, "batch_size": 4}
    found = collect(student, teacher, prompts, choice, MiniLLM(), **sizes)
    for prompt, response in zip(found.prompts, found.responses, strict=True):
        assert max(response.ids) < 11
        whole = torch.tensor([prompt + response.ids])
        place = slice(len(prompt) - 1, -1)

        def on_shared(logits: Tensor, place: slice = place) -> Tensor:
            shared: Tensor = logits[0, place, :11].log_softmax(-1)
            return shared

        with torch.no_grad():
            logq, logp = (on_shared(model(input_ids=whole).logits) for model in (student, teacher))
        drawn = torch.tensor(response.ids)[:, None]
        q, p = (each.gather(-1, drawn).squeeze(-1) for each in (logq, logp))
        close: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}
        torch.testing.assert_close(response.logprobs, q, **close)
        torch.testing.assert_close(response.teacher_logprobs, p, **close)
        torch.testing.assert_close(response.behaviour_logprobs, (0.4 * p.exp() + 0.6 * q.exp()).log(), **close)
        torch.testing.assert_close(response.kl, (logq.exp() * (logq - logp)).sum(-1), **close)


@pytest.mark.parametrize(("ours", "theirs"), SIZES)
def test_kd_compares_the_shared_ids(ours: int, theirs: int) -> None:
    """The weights of an untied head's padded rows see no gradient of it."""
    student = tiny_model("llama", vocabulary=ours, spread=0.2)
    before = student.state_dict()["lm_head.weight"][11:].clone()
    model, curves = trained(4, model=student, objective=kd, teacher=tiny_model(vocabulary=theirs, seed=1))
    losses = [value for _, value in curves.points["loss"]]
    assert losses[-1] < losses[0]
    padded = model.state_dict()["lm_head.weight"][11:]
    assert len(padded) == ours - 11
    torch.testing.assert_close(padded, before, rtol=1e-3, atol=0.0, msg="weight decay alone may touch them")


def test_a_padded_id_that_is_drawn_is_no_text() -> None:
    """A model of random weights draws them; no tokenizer may stumble over that."""
    reader = learn_bpe(["a few words"], 260)
    drawn = sample_responses(
        tiny_model(vocabulary=400), [[3]] * 8, list(range(8)), max_new_tokens=12, eos_id=EOS, batch_size=8
    )
    assert any(i >= len(reader) for response in drawn for i in response.ids)
    for response in drawn:
        known = [i for i in response.ids if i < len(reader)]
        assert reader.decode(response.ids, skip_special_tokens=True) == reader.decode(known, skip_special_tokens=True)


# --- through the stages -------------------------------------------------------------------------------------------


def project(folder: Path, architecture: str, **prompt: Any) -> None:
    """A family of two models from elsewhere: teacher with a padded vocabulary, student in bfloat16 and in shards."""
    (folder / "profiles").mkdir(parents=True)
    (folder / "distill/world").mkdir(parents=True)
    (folder / MINI).write_text(PROFILE)
    shutil.copytree(ROOT / "evalsets", folder / "evalsets")
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    whole_params(folder)
    edit(folder / "params.yaml", "evaluation.seeds", [10])
    set_methods(folder, "seqkd", "minillm")
    # As their own are: LLaMA's and OPT's begin a text with BOS, none of these has a token to pad with.
    reader = tokenizer(CHAT, bos=architecture in ("llama", "opt"))
    long = {"n_positions": 256} if architecture == "gpt2" else {"max_position_embeddings": 256}
    teacher = tiny_model(architecture, vocabulary=292, width=24, seed=1, spread=0.02, dtype=torch.float32, **long)
    student = tiny_model(architecture, vocabulary=264, seed=0, spread=0.02, dtype=torch.bfloat16, **long)
    for name, model in (("teacher", teacher), ("student", student)):
        model.save_pretrained(folder / name, max_shard_size="40KB")
        reader.save_pretrained(folder / name)
    edit(folder / MINI, "recipe.tokenizer", {"source": "student"})
    edit(folder / MINI, "recipe.teacher.model", {"source": "teacher"})
    edit(folder / MINI, "recipe.students.small.model", {"source": {"path": "student"}})
    edit(folder / MINI, "recipe.data.rows", {"teacher": 64, "student": 32})
    for key, value in prompt.items():
        edit(folder / MINI, f"recipe.prompt.{key}", value)
    for key, value in {"rollouts": 8, "max_steps": 2, "evaluate_every": 2}.items():
        edit(folder / MINI, f"recipe.students.small.minillm.{key}", value)


@pytest.mark.parametrize(
    ("architecture", "prompt"),
    [*((name, {}) for name in ARCHITECTURES), ("qwen2", {"chat_template": True, "system": "Be brief."})],
)
def test_a_family_of_models_from_elsewhere(tmp_path: Path, architecture: str, prompt: dict[str, Any]) -> None:
    folder = tmp_path / "project"
    project(folder, architecture, **prompt)
    run = in_folder(folder)
    run(check.main)
    run(prepare.main, "mini")
    run(evalset.main, "toy_id")
    for who in ("mini", "small"):
        run(base.main, who)
    run(sft.main, "mini", "teacher")
    run(sft.main, "small", "init")
    if architecture == "opt":
        # The teacher draws ids of its padding rows where it may, and the student has no such rows.
        run(pseudo.main, "mini")
        run(seqkd.main, "small", "seqkd")
    run(kd_stage.main, "small", "kd")
    run(minillm.main, "small", "minillm")
    if architecture == "opt":
        run(teacher_samples.main, "mini")
        run(divergence.main, "small", "minillm")
    run(respond.main, "small", "minillm", "toy_id")
    weights = load_file(folder / "runs/small/minillm/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    answers = (folder / "responses/small/minillm/toy_id.jsonl").read_text().splitlines()
    assert len(answers) == 10
    assert all(json.loads(answer)["tokens"] for answer in answers)


def test_another_tokenizer_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "project"
    project(folder, "gpt2")
    learn_bpe(["Quite another text, of other words and syllables."] * 9, 264).save_pretrained(folder / "student")
    (folder / "student/chat_template.jinja").unlink(missing_ok=True)
    edit(folder / MINI, "recipe.tokenizer", {"source": "teacher"})
    message = refusal(in_folder(folder), capsys, check.main)
    place = "profiles/mini.yaml: recipe.students.small.model: teacher and student tokenizers differ in "
    assert place in message
    assert "('!' is" in message, "it names tokens with both ids"
    assert "train this one by SeqKD in a family of its own" in message
    assert not (folder / "data").exists()


def test_pickled_weights_are_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "project"
    project(folder, "gpt2")
    shutil.rmtree(folder / "teacher")
    tiny_model(vocabulary=292, dtype=torch.float32).save_pretrained(folder / "teacher")
    only_pickle(folder / "teacher")
    message = refusal(in_folder(folder), capsys, check.main)
    assert "profiles/mini.yaml: recipe.teacher.model: teacher holds its weights as pickles" in message
    assert message.rstrip().endswith("by the command in docs/models.md, and name the new folder")


def test_a_model_that_cannot_be_decoded_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "project"
    project(folder, "gpt2")
    tiny_model("gemma2", vocabulary=264, dtype=torch.float32, final_logit_softcapping=30.0).save_pretrained(
        folder / "student"
    )
    message = refusal(in_folder(folder), capsys, check.main)
    assert "recipe.students.small.model: Gemma2ForCausalLM changes its logits after the output head" in message
    edit(folder / MINI, "recipe.students.small.model", {"init": {"model_type": "bert", "hidden_size": 24}})
    edit(folder / MINI, "recipe.tokenizer", {"source": "teacher"})
    message = refusal(in_folder(folder), capsys, check.main)
    assert "recipe.students.small.model.init: BertLMHeadModel changes its logits" in message


def test_loading_shows_no_bar_of_the_library(capfd: pytest.CaptureFixture[str]) -> None:
    tiny_model("llama").save_pretrained("saved")
    logging.enable_progress_bar()
    load_model(Path("saved"))
    assert "Loading weights" not in capfd.readouterr().err
