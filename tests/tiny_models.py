"""Random models of the four supported shapes, small enough that thousands of passes cost nothing.

Their weights are spread wide, so that distributions are far from uniform and a wrong position, mask or cache
shows in the third digit and not in the seventh.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

ARCHITECTURES = ("gpt2", "opt", "llama", "qwen2")
EOS = 0


def tiny_model(
    architecture: str = "gpt2",
    *,
    vocabulary: int = 11,
    width: int = 16,
    layers: int = 2,
    seed: int = 0,
    spread: float = 0.3,
    dtype: torch.dtype = torch.float64,
    **extra: Any,
) -> PreTrainedModel:
    """A model in evaluation mode; every parameter, biases too, has `spread` of random normal noise added.

    LLaMA and Qwen2 share each key-value head between two query heads. `extra` goes to the configuration.
    """
    rotary = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    shapes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": width, "n_layer": layers, "n_head": 2, "n_positions": 64}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        "opt": {
            "hidden_size": width,
            "word_embed_proj_dim": width,
            "ffn_dim": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "dropout": 0.0,
        },
        "llama": rotary,
        "qwen2": rotary,
    }
    ids = {"vocab_size": vocabulary, "bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS}
    config = AutoConfig.for_model(architecture, **{**shapes.get(architecture, rotary), **ids, **extra})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    # Called through the class: transformers' own `to` has no types.
    torch.nn.Module.to(model, dtype)
    model.eval()
    return model


def checksum(model: PreTrainedModel) -> dict[str, float]:
    """A validation that costs nothing: any function of the weights will do to choose a checkpoint."""
    total = float(sum(p.detach().double().sin().sum() for p in model.parameters()))
    return {"rouge_l": total, "loss": -total}


def opened_models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that `from_pretrained` opens from now on, in that order; the list grows as it does."""
    opened: list[str] = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(name: str, *arguments: Any, **given: Any) -> Any:
        opened.append(name)
        return load(name, *arguments, **given)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    return opened
