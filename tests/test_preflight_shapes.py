"""Shapes from config.json alone, against the models themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distill.models.loading import fuse_activations
from distill.preflight.models import counted_parameters, origin_findings, reference_origin
from distill.preflight.shapes import KNOWN, known_shape, shape_of
from distill.project.references import Reference
from distill.project.settings import read_yaml

D = 64
GPT2 = {"model_type": "gpt2", "n_embd": D, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 96}
OPT = {"model_type": "opt", "hidden_size": D, "word_embed_proj_dim": D, "ffn_dim": 3 * D, "num_hidden_layers": 3} | {
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "vocab_size": 96,
}
LLAMA = {"model_type": "llama", "hidden_size": D, "intermediate_size": 3 * D, "num_hidden_layers": 3} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 96,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2 tanh": GPT2 | {"activation_function": "gelu_pytorch_tanh", "n_inner": 2 * D},
    "opt": OPT,
    "llama": LLAMA,
    "llama heads": LLAMA | {"num_key_value_heads": 4, "head_dim": 32},
    "qwen2 tied": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True},
}


def make(config: dict[str, Any]) -> Any:
    values = {name: value for name, value in config.items() if name != "model_type"}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **ids, **values))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_exactly(name: str) -> None:
    model = make(CONFIGS[name])
    shape = shape_of(CONFIGS[name])
    assert shape.exact and shape.parameters == sum(p.numel() for p in model.parameters())
    # a saved config.json says the same as what was written in a profile
    assert shape_of(model.config.to_dict()) == shape


def kept_for_backward(config: dict[str, Any], tokens: tuple[int, int]) -> int:
    """Bytes that autograd keeps of the backbone's forward pass in evaluation mode, parameters left out."""
    model = make(config).eval()
    fuse_activations(model)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.base_model(input_ids=torch.zeros(tokens, dtype=torch.long), use_cache=False)
    assert states.last_hidden_state.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_activations_of_a_layer_are_what_autograd_keeps(name: str) -> None:
    layers = "n_layer" if CONFIGS[name]["model_type"] == "gpt2" else "num_hidden_layers"
    few, many = (kept_for_backward(CONFIGS[name] | {layers: count}, (2, 96)) for count in (1, 3))
    found = (many - few) / 2 / (2 * 96) / 4
    shape = shape_of(CONFIGS[name])
    # beside these: mean and deviation of two layer norms, one number for RMS norm; attention's log-sum-exp of each head
    small = shape.heads + (4 if shape.kind in ("gpt2", "opt") else 2)
    assert found == shape.layer_activations + small


def test_operations_are_two_a_weight_and_token() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, shape = make(LLAMA), shape_of(LLAMA)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 96, dtype=torch.long))
    # the counter knows the products with weights, not the CPU's attention kernel
    assert counter.get_total_flops() == pytest.approx(96 * shape.forward_operations(), rel=0.01)


@pytest.mark.parametrize(
    ("hub", "millions"),
    [
        ("openai-community/gpt2", 124.4),
        ("openai-community/gpt2-medium", 354.8),
        ("openai-community/gpt2-large", 774.0),
        ("openai-community/gpt2-xl", 1557.6),
        ("facebook/opt-1.3b", 1315.8),
        ("facebook/opt-13b", 12853.5),
        ("huggyllama/llama-7b", 6738.4),
        ("huggyllama/llama-13b", 13015.9),
        ("Qwen/Qwen2.5-0.5B", 494.0),
        ("Qwen/Qwen2.5-1.5B", 1543.7),
        ("Qwen/Qwen2.5-7B", 7615.6),
    ],
)
def test_the_models_of_the_profiles_have_their_published_size(hub: str, millions: float) -> None:
    shape = known_shape(hub)
    assert shape is not None and round(shape.parameters / 1e6, 1) == millions


@pytest.mark.parametrize("hub", read_yaml(KNOWN)["models"])
def test_known_configs_make_the_models_that_transformers_makes(hub: str) -> None:
    with torch.device("meta"):
        model = make(read_yaml(KNOWN)["models"][hub])
    shape = known_shape(hub)
    assert shape is not None and shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "targets"), [("gpt2", None), ("opt", None), ("llama", None), ("llama", "all-linear")])
def test_an_adapter_is_as_large_as_peft_makes_it(name: str, targets: str | None) -> None:
    from peft import LoraConfig, get_peft_model

    whole = get_peft_model(make(CONFIGS[name]), LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    assert shape_of(CONFIGS[name]).adapter(4, targets is not None) == trained


def test_an_unknown_architecture_counts_as_llama_and_says_so() -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
    shape = shape_of({"model_type": "mystery", **sizes})
    assert not shape.exact and shape.parameters > 0 and known_shape("me/mine") is None


GEMMA3: dict[str, Any] = {
    "text_config": LLAMA | {"model_type": "gemma3_text", "head_dim": 16, "tie_word_embeddings": True},
    "vision_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def test_a_text_model_inside_another_is_read_and_counted(tmp_path: Path) -> None:
    """Sizes from the section of the text model; parameters, the vision tower's too, from the files."""
    model = make({"model_type": "gemma3", **GEMMA3})
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    shape = reference_origin(Reference(path=str(tmp_path)), {}).shape
    assert shape is not None and not shape.exact
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads) == (D, 3, 4, 2)
    assert (shape.vocabulary, shape.positions) == (96, 128)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    next(tmp_path.glob("*.safetensors")).unlink()
    assert counted_parameters(tmp_path) is None, "a shard is missing"


def test_settings_that_are_left_out_are_the_librarys() -> None:
    """As the published files of such models have it: heads and vocabulary are defaults."""
    given = {"text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "model_type": "gemma3_text"}}
    shape = shape_of({"model_type": "gemma3", **given, "vision_config": {"hidden_size": 1152}})
    text = AutoConfig.for_model("gemma3", **given).text_config
    assert (shape.hidden, shape.layers, shape.vocabulary) == (2560, 34, text.vocab_size)
    assert (shape.heads, shape.head_width) == (text.num_attention_heads, text.head_dim)


def test_a_formula_that_does_not_fit_gives_way_to_the_count() -> None:
    """OPT with embeddings narrower than the model; buffers in a file (GPT-2's masks) change nothing."""
    narrow = OPT | {"word_embed_proj_dim": 8, "vocab_size": 9600}
    count = sum(p.numel() for p in make(narrow).parameters())
    assert shape_of(narrow).parameters > 2 * count, "the formula"
    assert shape_of(narrow, count).parameters == count and not shape_of(narrow, count).exact
    plain = shape_of(GPT2)
    assert shape_of(GPT2, plain.parameters * 11 // 10) == plain


@pytest.mark.parametrize("config", ["[", "{}", '{"model_type": "nonesuch"}', '{"model_type": "vit"}'])
def test_a_shape_that_cannot_be_read_is_no_shape(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"no such file")
    found = reference_origin(Reference(path=str(tmp_path)), {})
    assert found.shape is None and found.where == "here"
    said = origin_findings({"student": found}, {}, ask=False)
    assert [(finding.level, finding.subject) for finding in said] == [("warn", "student"), ("ok", "hub")]
