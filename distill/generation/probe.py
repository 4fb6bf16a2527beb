"""The probe of a decode: three rows, two of them ending early, held against one pass over the whole texts.

No list of architectures: a model is decoded with its cache where that agrees with the pass that training makes, by
reading the text again for each token where only that agrees, and refused where neither does.

Shapes: B batch, T response, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from distill.generation.cache import CachedModel
from distill.generation.frontier import Frontier, places
from distill.generation.rereading import RereadingModel
from distill.models.parts import backbone, head, precise, require_plain_head, rows_of
from distill.models.small import small_model
from distill.project.errors import ModelError
from distill.project.foreign import is_out_of_memory

DecodingModel = CachedModel | RereadingModel
Way = Literal["cache", "rereading"]

# Tokens of each prompt and of the response fed after it: the first row is padded most and ends first.
_LENGTHS = ((1, 2), (6, 4), (3, 6))
# Log-probabilities compared at each position: those of the likeliest tokens, which rounding moves least.
_COMPARED = 8
# What rounding moves them by, at logits of up to ten; in half precision a wrong mask or position still shows.
_ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.1}

_known: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()
_kinds: dict[str, Way | None] = {}


def require_decodable(model: PreTrainedModel) -> Way:
    """How `model` is decoded; seconds, before any training.

    Raises: ModelError when its logits are no plain head's, or no decode agrees with a pass over the whole text.
    """
    require_plain_head(model)
    return way_of_decoding(model)


def decoding_model(model: PreTrainedModel, rows: int) -> DecodingModel:
    """`model` at the start of a decode of `rows` prompts. Raises: ModelError as `way_of_decoding`."""
    return CachedModel(model, rows) if way_of_decoding(model) == "cache" else RereadingModel(model)


def way_of_decoding(model: PreTrainedModel) -> Way:
    """The cheapest exact decode of `model`, probed once for each model in memory.

    Raises: ModelError naming the architecture when there is none.
    """
    if model not in _known:
        # A few tokens reach no window, and half precision hides small faults: a small model of the kind shows both.
        _known[model] = _probed(model, _way_of_kind(model.config) or "cache")
    return _known[model]


def way_of_config(config: PreTrainedConfig) -> Way | None:
    """How a model of `config` is decoded, by a small random one of its kind; None where none can be made.

    Raises: ModelError as `require_decodable`.
    """
    small = small_model(config)
    if small is None:
        return None
    require_plain_head(small)
    return _way_of_kind(config, small)


def _way_of_kind(config: PreTrainedConfig, small: PreTrainedModel | None = None) -> Way | None:
    key = f"{type(config).__name__} {config.to_json_string()}"
    if key not in _kinds:
        small = small or small_model(config)
        _kinds[key] = None if small is None else _probed(small, "cache")
    return _kinds[key]


def tell_slowness(name: str, way: Way | None) -> None:
    """Say on stderr that a model is sampled slowly, where it is."""
    if way == "rereading":
        text = "its cache is not exact or it has none, so each token is sampled by reading the whole text again (slow)"
        print(f"note: {name}: {text}", file=sys.stderr)


def _probed(model: PreTrainedModel, first: Way) -> Way:
    """The first way that agrees, from `first` on."""
    starts: dict[Way, Callable[[], DecodingModel]] = {
        "cache": lambda: CachedModel(model, len(_LENGTHS)),
        "rereading": lambda: RereadingModel(model),
    }
    ways = [way for way in starts if way == "rereading" or first == "cache"]
    found: dict[Way, str] = {}
    for way in ways:
        fault = _fault(model, starts[way])
        if fault is None:
            return way
        found[way] = fault
    raise ModelError(
        f"{type(model).__name__} cannot be decoded exactly: {found['rereading']}; use a causal language model, e.g. of "
        "GPT-2's, LLaMA's or Qwen's kind"
    )


def _fault(model: PreTrainedModel, start: Callable[[], DecodingModel]) -> str | None:
    """What is wrong with a way of decoding, None when it agrees with one pass over the whole texts."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected, decoded = _read_whole(model), _decode(model, start())
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    finally:
        model.train(training)
    if not bool(expected.isfinite().all() and decoded.isfinite().all()):
        return "its scores are not finite"
    likeliest = expected.log_softmax(-1).topk(min(_COMPARED, expected.shape[-1]), dim=-1)
    gap = (decoded.log_softmax(-1).gather(-1, likeliest.indices) - likeliest.values).abs().max().item()
    rounding = _ROUNDING.get(model.dtype, 0.5) * max(1.0, expected.abs().max().item() / 10)
    if gap <= rounding:
        return None
    return (
        f"its log-probabilities are {gap:.3g} off those of one pass over the text (at most {rounding:.1g} is rounding)"
    )


def _texts(model: PreTrainedModel) -> list[list[int]]:
    """Prompt and response of each row; spread over the vocabulary, away from its ends, where special tokens lie."""
    count = rows_of(head(model))
    ids = [(count // 3 + 7 * i * i + 3 * i) % count for i in range(sum(map(sum, _LENGTHS)))]
    starts = [sum(map(sum, _LENGTHS[:row])) for row in range(len(_LENGTHS))]
    return [ids[start : start + sum(lengths)] for start, lengths in zip(starts, _LENGTHS, strict=True)]


def _read_whole(model: PreTrainedModel) -> Tensor:
    """Scores [N, V] before each response token and after the last, as training reads them: padded on the right."""
    texts = _texts(model)
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    states: Tensor = backbone(model)(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    kept = [states[row, prompt - 1 : prompt + response] for row, (prompt, response) in enumerate(_LENGTHS)]
    return precise(head(model)(torch.cat(kept)))


def _decode(model: PreTrainedModel, decoding: DecodingModel) -> Tensor:
    """The same scores from a decode in which each row leaves at its own end."""
    texts = _texts(model)
    front = Frontier([text[:prompt] for text, (prompt, _) in zip(texts, _LENGTHS, strict=True)], 0, model.device)
    found: list[list[Tensor]] = [[] for _ in texts]
    rows = list(range(len(texts)))
    states = decoding.read(front.ids, front.mask, front.positions)
    for step in range(1 + max(response for _, response in _LENGTHS)):
        if step:
            states = decoding.advance(front.ids, front.mask, front.positions)
        for place, row in enumerate(rows):
            found[row].append(states[place])
        alive = torch.tensor([_LENGTHS[row][1] > step for row in rows])
        if not alive.any():
            break
        if not alive.all():
            index = places(alive).to(model.device)
            decoding.keep_rows(index)
            front.keep_rows(index)
            rows = [rows[place] for place in index.tolist()]
        following = [texts[row][_LENGTHS[row][0] + step] for row in rows]
        front.append(torch.tensor(following, device=model.device))
    return precise(head(model)(torch.cat([torch.stack(states) for states in found])))
