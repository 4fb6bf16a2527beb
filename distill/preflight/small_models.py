"""Small random models like large ones: few layers of the same width, made in a second."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from distill.preflight.shapes import Shape

# A model of at most so many layers stays as it is, a deeper one has so many.
_ALL_LAYERS, _LAYERS = 4, 2
# More parameters than this take long to make: layers, then the vocabulary, then the width are cut until they fit.
_MOST = 60e6


def shrunk(shape: Shape) -> Shape:
    """A model like `shape` that is quick to make: few layers, and where that is not enough fewer tokens and heads."""
    small = shape if shape.layers <= _ALL_LAYERS else replace(shape, layers=_LAYERS)
    while small.parameters > _MOST:
        if small.layers > 1:
            small = replace(small, layers=small.layers - 1)
        elif small.embedding * 4 > _MOST and small.vocabulary > 4000:
            small = replace(small, vocabulary=small.vocabulary // 4)
        else:
            # Half the heads of the same width, so that the products keep their form.
            heads, share = max(1, small.heads // 2), small.hidden // small.heads
            kv_heads = max(1, small.kv_heads // 2)
            small = replace(small, hidden=heads * share, ffn=max(1, small.ffn // 2), heads=heads)
            small = replace(small, kv_heads=kv_heads if heads % kv_heads == 0 else 1)
            if heads == 1:
                break
    return small


def random_model(shape: Shape, length: int, dtype: torch.dtype) -> PreTrainedModel:
    """A random model of this shape with `length` positions."""
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": shape.vocabulary}
    if shape.kind == "gpt2":
        sizes = {"n_embd": shape.hidden, "n_layer": shape.layers, "n_head": shape.heads, "n_positions": length}
        config = AutoConfig.for_model("gpt2", n_inner=shape.ffn, **ids, **sizes)
    elif shape.kind == "opt":
        config = AutoConfig.for_model(
            "opt",
            hidden_size=shape.hidden,
            word_embed_proj_dim=shape.hidden,
            ffn_dim=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=length,
            **ids,
        )
    else:
        # Qwen2's heads are as wide as the model divided by them; LLaMA's may differ, as those of many others do.
        width = {} if shape.kind == "qwen2" else {"head_dim": shape.head_width}
        config = AutoConfig.for_model(
            "qwen2" if shape.kind == "qwen2" else "llama",
            hidden_size=shape.hidden,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=length,
            tie_word_embeddings=shape.tied,
            **ids,
            **width,
        )
    with no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Drawing each weight would take most of the time; a short stretch of numbers over and over does as well.
    stretch = (torch.rand(2**16) - 0.5) * 0.04
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(stretch.repeat(-(-weights.numel() // len(stretch)))[: weights.numel()].view_as(weights))
    nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    return model
