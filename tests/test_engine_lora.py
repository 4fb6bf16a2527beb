"""LoRA: what is trained and what is not, whose adapter is whose, one base for two models, and peft's own reading."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from distill.models.checkpoints import Adapted, save_checkpoint
from distill.models.loading import load_model, rehearse
from distill.models.lora import add_adapter, has_adapter, read_adapter, same_shape, save_adapter, trainable
from distill.models.merging import merge_adapter
from distill.models.parts import backbone, head
from distill.models.settings import LoraSettings
from distill.objectives import sft
from distill.objectives.minillm.objective import MiniLLM
from distill.on_policy.losses import packed_loss, weighted_loss
from distill.project.errors import ModelError
from distill.project.files import read_json, sha256_tree, write_json
from distill.project.references import ModelReference, Reference
from distill.text.tokenizers import learn_bpe
from tests.test_engine_losses import minillm, packed
from tests.test_engine_supervised import recipe, trained
from tests.tiny_models import ARCHITECTURES, tiny_model

IDS = torch.arange(1, 9)[None]
TOKENIZER = learn_bpe(["A few words, and a few more."], 260)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
        return found


def adapted(architecture: str = "gpt2", seed: int = 3, **given: Any) -> PreTrainedModel:
    """A tiny model with an adapter that changes its outputs."""
    model = tiny_model(architecture, dtype=torch.float32)
    add_adapter(model, LoraSettings(r=2, **given), seed)
    disturb(model, seed)
    return model


def disturb(model: PreTrainedModel, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))


# --- one adapter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_an_adapter_is_saved_read_and_merged(architecture: str, targets: Any) -> None:
    plain = tiny_model(architecture, dtype=torch.float32)
    fresh = tiny_model(architecture, dtype=torch.float32)
    add_adapter(fresh, LoraSettings(r=2, targets=targets), 0)
    assert torch.equal(logits(fresh), logits(plain)), "a fresh adapter adds nothing"
    model = adapted(architecture, targets=targets)
    assert (logits(model) - logits(plain)).abs().max() > 0.01
    save_adapter(model, Path("adapter"), Reference(path="somewhere"))
    again = tiny_model(architecture, dtype=torch.float32)
    read_adapter(again, Reference(path="adapter"))
    assert torch.equal(logits(again), logits(model))
    by_peft = PeftModel.from_pretrained(tiny_model(architecture, dtype=torch.float32), "adapter")
    assert torch.equal(logits(by_peft), logits(model)), "peft itself reads it otherwise"
    merge_adapter(again)
    assert not has_adapter(again)
    assert set(again.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)


def test_the_same_adapter_is_the_same_bytes() -> None:
    for name in ("one", "other"):
        save_adapter(adapted(targets="all-linear"), Path(name), None)
    assert sha256_tree(Path("one")) == sha256_tree(Path("other"))
    config = read_json(Path("one/adapter_config.json"))
    assert config["target_modules"] == sorted(config["target_modules"])


def test_only_the_adapter_can_be_trained_and_in_full_precision() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    add_adapter(model, LoraSettings(r=2), 0)
    assert all(".lora_" in name and p.dtype == torch.float32 for name, p in trainable(model).items())
    assert {p.dtype for n, p in model.named_parameters() if ".lora_" not in n} == {torch.bfloat16}
    model(input_ids=IDS).logits.float().sum().backward()
    assert any(bool(p.grad is not None and p.grad.any()) for p in trainable(model).values())


def test_an_adapter_that_is_read_is_trained_in_full_precision_too() -> None:
    save_adapter(adapted("llama"), Path("adapter"), None)
    again = tiny_model("llama", dtype=torch.bfloat16)
    read_adapter(again, Reference(path="adapter"))
    stored = load_file("adapter/adapter_model.safetensors")
    for name, values in trainable(again).items():
        assert values.dtype == torch.float32
        assert torch.equal(values, stored[f"base_model.model.{name.replace('.default', '')}"]), "rounded on the way"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_training_goes_on_with_an_adapter_of_the_wanted_layers_only(architecture: str, targets: Any) -> None:
    tiny_model(architecture, dtype=torch.float32).save_pretrained("base")
    base, one = Reference(path="base"), {"gpt2": ("c_proj",), "llama": ("q_proj",)}[architecture]
    for name, chosen in (("wanted", targets), ("one", one)):
        save_adapter(adapted(architecture, targets=chosen), Path(name), None)
    for name, chosen in (("wanted", targets), ("one", one)):
        assert same_shape(Reference(path=name), LoraSettings(r=2, targets=chosen), base)
        assert not same_shape(Reference(path=name), LoraSettings(r=4, targets=chosen), base)
    assert not same_shape(Reference(path="one"), LoraSettings(r=2, targets=targets), base)
    assert not same_shape(Reference(path="wanted"), LoraSettings(r=2, targets=one), base)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_output_head_cannot_be_a_target(architecture: str) -> None:
    """GPT-2's is tied to the embedding, so that naming the embedding names it too; LLaMA's is its own."""
    tied = {"gpt2": "wte", "llama": "lm_head"}[architecture]
    with pytest.raises(ModelError, match=f"takes in .*{tied}.* leave it out"):
        add_adapter(tiny_model(architecture, dtype=torch.float32), LoraSettings(targets=(tied,)), 0)
    with pytest.raises(ModelError, match="correct `targets`"):
        add_adapter(tiny_model(architecture), LoraSettings(targets=("no_such_layer",)), 0)


# --- an adapter from elsewhere ------------------------------------------------------------------------------------


def other_kind() -> None:
    write_json(Path("adapter/adapter_config.json"), {"peft_type": "IA3", "target_modules": ["c_attn"]})


def pickled() -> None:
    torch.save(load_file("adapter/adapter_model.safetensors"), "adapter/adapter_model.bin")
    Path("adapter/adapter_model.safetensors").unlink()


def other_shape() -> None:
    weights = load_file("adapter/adapter_model.safetensors")
    save_file({name.replace(".h.1.", ".h.7."): w for name, w in weights.items()}, "adapter/adapter_model.safetensors")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda: shutil.rmtree("adapter"), "holds no LoRA adapter that can be used"),
        (other_kind, "holds no LoRA adapter that can be used .* merge it into its model with peft"),
        (pickled, "adapters are loaded from safetensors only: save it again"),
        (other_shape, "does not fit the model: .* name the model that the adapter was trained on"),
    ],
)
def test_an_adapter_that_cannot_be_used(break_it: Callable[[], None], said: str) -> None:
    save_adapter(adapted(), Path("adapter"), None)
    break_it()
    with pytest.raises(ModelError, match=said):
        read_adapter(tiny_model(dtype=torch.float32), Reference(path="adapter"))


EXACT: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "tokens": {"trainable_token_indices": [10, 3]},
    "ranks": {"rank_pattern": {"q_proj": 4}, "use_rslora": True},
}
INEXACT: dict[str, dict[str, Any]] = {
    "a bias that the layer lacks": {"lora_bias": True},
    "layers twice": {"layer_replication": [[0, 2], [1, 2]]},
    "an invocation": {"alora_invocation_tokens": [3, 4], "task_type": "CAUSAL_LM"},
    "other base weights": {"init_lora_weights": "pissa"},
    "a tied embedding": {"target_modules": ["embed_tokens"]},
}


def by_peft(**settings: Any) -> Tensor:
    """Logits of a LLaMA in base/ with an adapter of peft's own making in kind/."""
    base = tiny_model("llama", dtype=torch.float32, tie_word_embeddings=True)
    base.save_pretrained("base")
    TOKENIZER.save_pretrained("base")
    made = get_peft_model(base, LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **settings}))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    made.save_pretrained("kind")
    return logits(made.eval())


@pytest.mark.parametrize("kind", EXACT)
def test_other_kinds_of_lora_are_exact_loaded_and_finished(kind: str) -> None:
    wanted = by_peft(**EXACT[kind])
    source = ModelReference.model_validate({"path": "base", "adapter": "kind"})
    torch.testing.assert_close(logits(load_model(source)), wanted, rtol=1e-4, atol=1e-4)
    rehearse(source)
    model = load_model(source.base)
    read_adapter(model, Reference(path="kind"))
    save_checkpoint(model, TOKENIZER, Path("done"), {}, Adapted(LoraSettings(), source.base))
    torch.testing.assert_close(logits(load_model(Path("done"))), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", INEXACT)
def test_a_lora_that_would_not_be_exact_is_refused(kind: str) -> None:
    by_peft(**INEXACT[kind])
    source = ModelReference.model_validate({"path": "base", "adapter": "kind"})
    for read in (load_model, rehearse):
        with pytest.raises(ModelError, match=r"train it again as a plain LoRA|merge the two with peft"):
            read(source)


def test_a_lora_with_added_tokens_is_refused() -> None:
    by_peft()
    weights = load_file("kind/adapter_model.safetensors")
    weights["base_model.model.model.embed_tokens.weight"] = torch.zeros(15, 16)
    save_file(weights, "kind/adapter_model.safetensors", {"format": "pt"})
    source = ModelReference.model_validate({"path": "base", "adapter": "kind"})
    for read in (load_model, rehearse):
        with pytest.raises(ModelError, match=r"does not fit .*where tokens were added"):
            read(source)


def test_a_model_may_be_named_with_its_adapter() -> None:
    tiny_model(dtype=torch.float32).save_pretrained("base")
    model = adapted()
    save_adapter(model, Path("adapter"), None)
    found = load_model(ModelReference.model_validate({"path": "base", "adapter": "adapter"}))
    assert not has_adapter(found)
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-4)


# --- a finished checkpoint ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_merged_with_the_adapter_beside_it() -> None:
    model = adapted()
    wanted = logits(model)
    save_checkpoint(model, TOKENIZER, Path("done"), {}, Adapted(LoraSettings(r=2), Reference(path="base")))
    assert torch.equal(logits(model), wanted), "saving a run's best weights must not end the run"
    plain = AutoModelForCausalLM.from_pretrained("done")
    merge_adapter(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(dict(plain.named_parameters())[name], parameter, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits(plain), wanted, rtol=1e-4, atol=1e-4)
    loaded = load_model(Path("done"))
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, dict(plain.named_parameters())[name]), name
    # Loading puts another kernel of the same GELU into a GPT-2: to rounding.
    torch.testing.assert_close(logits(loaded), logits(plain), rtol=1e-5, atol=1e-5)
    assert read_json(Path("done/adapter/adapter_config.json"))["base_model_name_or_path"] == "base"


def test_a_checkpoint_may_be_the_adapter_alone() -> None:
    tiny_model(dtype=torch.float32).save_pretrained("base")
    model = adapted()
    wanted = logits(model)
    choice = Adapted(LoraSettings(r=2, save="adapter"), Reference(path="base"))
    save_checkpoint(model, TOKENIZER, Path("done"), {}, choice)
    assert not (Path("done") / "model.safetensors").exists()
    torch.testing.assert_close(logits(load_model(Path("done"))), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="trained here, so write `save: merged`"):
        save_checkpoint(adapted(), TOKENIZER, Path("not"), {}, Adapted(LoraSettings(r=2, save="adapter"), None))
    assert not Path("not").exists()


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunked_head_leaves_a_frozen_head_alone(architecture: str) -> None:
    model = adapted(architecture)
    model.double()
    teacher_head, known = nn.Linear(5, 11, dtype=torch.float64), packed(8, 11)

    def hidden() -> Tensor:
        states: Tensor = backbone(model)(input_ids=IDS).last_hidden_state
        return states.flatten(0, 1)

    whole, _ = weighted_loss(MiniLLM(), minillm(), head(model)(hidden()), teacher_head(known.teacher_hidden), known)
    expected = torch.autograd.grad(whole, list(trainable(model).values()))
    loss, _ = packed_loss(MiniLLM(), minillm(), hidden(), head(model), teacher_head, known, 11, chunk=3)
    loss.backward()
    for (name, parameter), gradient in zip(trainable(model).items(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9, msg=name)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_supervised_training_changes_the_adapter_alone() -> None:
    start = tiny_model(spread=0.2)
    model = tiny_model(spread=0.2)
    add_adapter(model, LoraSettings(r=2, dropout=0.1), 0)
    scores = iter([1.0, 3.0, 2.0, 0.0])
    kept: list[dict[str, Tensor]] = []

    def validate(seen: PreTrainedModel) -> dict[str, float]:
        kept.append({name: p.detach().clone() for name, p in trainable(seen).items()})
        return {"rouge_l": next(scores), "loss": 1.0}

    trained(4, model=model, settings=recipe(sft, epochs=4), validate=validate)
    saved = load_file(sorted(Path("scratch-4").glob("checkpoint-*"))[0] / "weights-00000.safetensors")
    assert saved and all(".lora_" in name for name in saved), "a state of an unfinished run holds the frozen weights"
    for name, parameter in trainable(model).items():
        assert torch.equal(parameter, kept[1][name]), "the best weights are those of the second epoch"
        assert not torch.equal(parameter, kept[3][name])
    assert sum(".lora_B" in name for name in kept[0]) == 2
    merged = dict(start.named_parameters())
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, merged[name.replace(".base_layer", "")]), name
