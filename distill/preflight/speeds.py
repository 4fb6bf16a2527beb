"""The speed of this machine, measured for at most twenty seconds on models as wide as the ones to be trained.

The models have few layers and random weights. Measured are the operations a second of training and of sampling; a
stage's counted operations divided by them give its time. Longer runs vary with batches, lengths and neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from distill.generation.decode import sample_responses
from distill.preflight.shapes import Shape
from distill.preflight.workload import Lengths, Work

SECONDS = 20.0
_LAYERS = 2
_NEW_TOKENS = 8
# More parameters than this take long to draw: the width is halved until they fit.
_MOST = 150e6
_SHORTEST, _LONGEST = 8, 512


@dataclass(frozen=True)
class Speed:
    """Operations a second."""

    training: float
    sampling: float

    def seconds(self, work: Work) -> float:
        """The seconds of a stage at these speeds."""
        return work.operations / self.training + work.decoding / self.sampling


def calibrate(
    shapes: Mapping[str, Shape], lengths: Lengths, micro_batch: int, decode_batch: int, threads: int | None = None
) -> dict[str, Speed]:
    """Train and sample with a small model like each of `shapes`, in equal parts of the time: name → speed.

    Each is measured by itself, because a wide model does more operations a second than a narrow one.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    seconds = SECONDS / 2 / max(1, len(shapes)) - 1
    return {name: _speed(shape, lengths, micro_batch, decode_batch, seconds) for name, shape in shapes.items()}


def _speed(shape: Shape, lengths: Lengths, micro_batch: int, decode_batch: int, seconds: float) -> Speed:
    small = replace(shape, layers=min(_LAYERS, shape.layers))
    while small.parameters > _MOST:
        # Half the heads of the same width, so that the products keep their form.
        small = replace(small, hidden=small.hidden // 2, ffn=small.ffn // 2, heads=max(1, small.heads // 2))
        small = replace(small, kv_heads=min(small.kv_heads, small.heads), vocabulary=max(1000, small.vocabulary // 2))
    length = int(min(max(lengths.prompt + lengths.response, _SHORTEST), small.positions, _LONGEST))
    model = _like(small, length)
    ids = torch.randint(small.vocabulary, (micro_batch, length), device=model.device)
    operations = 3 * ids.numel() * small.forward_operations(length / 2)
    training = operations * _rate(lambda: _pass(model, ids), seconds)
    model.eval()
    prompts = [[1] * max(1, length - _NEW_TOKENS)] * min(decode_batch, 256)

    def sample() -> None:
        sample_responses(
            model, prompts, [0] * len(prompts), max_new_tokens=_NEW_TOKENS, eos_id=-1, batch_size=len(prompts)
        )

    # Reading the prompts counts too: a real response is longer than these.
    tokens = len(prompts) * (len(prompts[0]) + _NEW_TOKENS)
    return Speed(training, tokens * small.forward_operations(length / 2) * _rate(sample, seconds))


def _rate(work: Callable[[], None], seconds: float) -> float:
    """The times a second that `work` runs, over `seconds`; the first time warms up and does not count."""
    work()
    began, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - began < seconds:
        work()
        times += 1
    return times / (time.perf_counter() - began)


def _pass(model: PreTrainedModel, ids: torch.Tensor) -> None:
    model(input_ids=ids).logits.float().logsumexp(-1).mean().backward()
    model.zero_grad(set_to_none=False)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _like(shape: Shape, length: int) -> PreTrainedModel:
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
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    return model
