"""Architectures beyond the shipped ones: each is decoded exactly, by its cache or without, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from distill.generation.cache import CachedModel
from distill.generation.decode import sample_responses
from distill.generation.probe import require_decodable, way_of_config
from distill.models.lora import add_adapter
from distill.models.parts import backbone
from distill.models.settings import LoraSettings
from distill.models.small import small_model
from distill.preflight.decoding import undecodable, undecodable_init
from distill.project.errors import ModelError
from distill.project.references import Reference
from tests.tiny_models import EOS, tiny_model

PROMPTS = [[3], [1, 7, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [4, 4, 4, 4, 4]]
MAMBA: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 8}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11, "sliding_window": 4}
VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BART: dict[str, Any] = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    # Recurrent states alone, which the library hands over under another name.
    "mamba": ("cache", MAMBA),
    "mamba2": ("cache", {**MAMBA, "head_dim": 8, "num_heads": 4, "n_groups": 2, "chunk_size": 4}),
    "falcon_mamba": ("cache", MAMBA),
    # Attention beside them, in other layers or in the same one.
    "jamba": ("cache", {"num_hidden_layers": 5, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4}),
    "falcon_h1": ("cache", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}),
    "lfm2": ("cache", {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]}),
    "qwen3_5_text": ("cache", {"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 2}),
    # Windows shorter than the text; a body whose class names its place in a larger model.
    "mistral": ("cache", {"sliding_window": 4}),
    "llama4_text": ("cache", {"num_hidden_layers": 4, "num_local_experts": 2, "attention_chunk_size": 4}),
    "gemma3": ("cache", {"text_config": TEXT, "vision_config": VISION}),
    # No cache, one of a kind of its own, or one that pays no heed to padding.
    "openai-gpt": ("rereading", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "rwkv": ("rereading", {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16}),
    "bart": ("rereading", BART),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_gemma": ("changes its logits", {"lru_width": 16, "attention_window_size": 4, "num_hidden_layers": 3}),
    "bert": ("changes its logits", {}),
    "bert-generation": ("cannot be decoded exactly", {}),
}


def tiny(architecture: str, settings: dict[str, Any]) -> PreTrainedModel:
    """A model in float32, its weights spread so far that a wrong state shows."""
    if architecture == "gemma3":  # `tiny_model` writes what the text model's section is to say
        config = AutoConfig.for_model(architecture, **settings)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.eval()
        return model
    return tiny_model(architecture, dtype=torch.float32, **settings)


def largest_gap(model: PreTrainedModel) -> float:
    """The decode's log-probabilities beside those of each text alone, in one pass."""
    found = sample_responses(model, PROMPTS, list(range(5)), max_new_tokens=8, eos_id=EOS, batch_size=5)
    lengths = {len(response.ids) for response in found}
    assert len(lengths) > 1, "some rows end before others"
    gaps = []
    for prompt, response in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response.ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(response.ids)[:, None]).squeeze(-1)
        gaps.append((response.logprobs - expected).abs().max().item())
    return float(max(gaps))


@pytest.mark.parametrize("architecture", EXACT)
def test_a_decode_is_exact(architecture: str) -> None:
    way, settings = EXACT[architecture]
    model = tiny(architecture, settings)
    assert require_decodable(model) == way
    assert largest_gap(model) < 1e-4
    assert way_of_config(model.config) in (way, None), "a small model of its kind says the same"


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_cannot_be_decoded_is_refused_by_name(architecture: str) -> None:
    reason, settings = REFUSED[architecture]
    model = tiny(architecture, settings)
    with pytest.raises(ModelError, match=f"^{type(model).__name__} {reason}.*; use a "):
        require_decodable(model)


def test_a_soft_cap_is_seen_while_logits_are_small() -> None:
    model = tiny_model("gemma2", dtype=torch.float32, spread=0.02, head_dim=4, final_logit_softcapping=30.0)
    logits = model(input_ids=torch.arange(1, 9)[None]).logits
    assert logits.abs().max() < 1, "here the cap changes less than rounding would"
    with pytest.raises(ModelError, match="Gemma2ForCausalLM changes its logits after the output head"):
        require_decodable(model)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = tiny_model(dtype=torch.float32)
    with torch.no_grad():
        next(model.parameters())[2] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        require_decodable(model)


@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
def test_a_cache_that_ignores_padding_is_not_used(ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the architecture: the text is read again, and the numbers are right."""
    model = tiny_model(dtype=torch.float32)

    def forget(_: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, {name: value for name, value in named.items() if name != ignored}

    backbone(model).register_forward_pre_hook(forget, with_kwargs=True)
    assert require_decodable(model) == "rereading"
    monkeypatch.setattr(CachedModel, "read", None)
    assert largest_gap(model) < 1e-4


def test_a_small_model_shows_every_kind_of_layer_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", None)  # dropout on a GPU goes on where it was
    config = AutoConfig.for_model("jamba", num_experts=2)
    state = torch.get_rng_state()
    small = small_model(config)
    assert small is not None and torch.equal(torch.get_rng_state(), state)
    assert set(small.config.layer_types) == set(config.layer_types) and len(set(config.layer_types)) > 1
    assert small.num_parameters() < 3e6
    assert (config.num_hidden_layers, config.hidden_size) == (32, 4096), "the configuration itself stays"


def test_a_config_is_enough_to_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model of 9 billion parameters, whose weights are nowhere."""
    AutoConfig.for_model("gemma2", hidden_size=3584, num_hidden_layers=42).save_pretrained(tmp_path)
    assert "Gemma2ForCausalLM changes its logits" in (undecodable(Reference(path=str(tmp_path))) or "")
    assert undecodable_init({"model_type": "mamba", "hidden_size": 64}) is None
    assert capsys.readouterr().err == ""
    assert undecodable_init({"model_type": "rwkv", "hidden_size": 64}) is None
    assert "note: rwkv: its cache is not exact" in capsys.readouterr().err
    assert undecodable_init({"model_type": "nonesuch"}) is None, "the stage says that"


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_an_adapter_is_on_the_text_model_alone(targets: Literal["all-linear"] | None) -> None:
    model = tiny("gemma3", EXACT["gemma3"][1])
    add_adapter(model, LoraSettings(targets=targets), 0)
    adapted = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == 4 * (2 if targets is None else 7)
    assert all(name.startswith("model.language_model.layers.") for name in adapted)
