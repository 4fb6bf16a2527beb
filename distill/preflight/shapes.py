"""The shape of a causal language model, from its config.json alone: parameters, activations and operations.

It needs no weights, so a model can be judged before it is fetched. Exact for GPT-2, OPT, LLaMA and Qwen2 (tests compare
it with the models). Another architecture counts as LLaMA's, with the parameters that its files hold if they are here;
the report says so, and nothing is stopped by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.project.settings import read_yaml

KNOWN = Path(__file__).with_name("known_shapes.yaml")

# Architectures whose formulas are exact.
FAMILIES = ("gpt2", "opt", "llama", "qwen2")
# transformers' own defaults, where a config leaves a value out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
    "opt": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_dim": 3072}
    | {"max_position_embeddings": 2048, "vocab_size": 50272},
    "llama": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
    | {"max_position_embeddings": 2048, "vocab_size": 32000},
    "qwen2": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}
    | {"intermediate_size": 22016, "max_position_embeddings": 32768, "vocab_size": 151936},
}
# The settings without which a shape would be a guess, under every name they go by in config.json.
_NEEDED = (
    ("hidden_size", "n_embd", "d_model"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("vocab_size",),
)
_UNBOUNDED = 2**31
# A family's own config.json, with settings that its formula leaves out, may hold another number of parameters; files
# also hold buffers (GPT-2: 10 %).
_SAME = 0.25
# Dropout on the residual stream, attention dropout: transformers' defaults.
_DROPOUT = {"gpt2": (0.1, 0.1), "opt": (0.1, 0.0)}


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer."""

    kind: str
    """gpt2, opt, llama or qwen2; anything else counts as llama."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocabulary: int
    positions: int
    """Longest sequence."""
    tied: bool
    """The output head is the embedding."""
    dropout: bool = False
    """Masks of dropout are kept in training."""
    attention_dropout: bool = False
    counted: int | None = None
    """Parameters in the model's files, where they are not what the formula of its kind says."""

    @property
    def exact(self) -> bool:
        """Whether the formulas are those of the architecture."""
        return self.kind in FAMILIES and self.counted is None

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the head where it is its own."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        if self.counted is not None:
            return self.counted
        return self.embedding * (1 if self.tied else 2) + self._positions + self.layers * self._layer + self._last

    def cut(self, layers: int) -> Shape:
        """The same model with so many of its layers."""
        counted = None if self.counted is None else self.counted - (self.layers - layers) * self._layer
        return replace(self, layers=layers, counted=counted)

    @property
    def _positions(self) -> int:
        # Rotary positions have no parameters; OPT's table has two rows more than positions, which its offset skips.
        return {"gpt2": self.positions, "opt": self.positions + 2}.get(self.kind, 0) * self.hidden

    @property
    def _last(self) -> int:
        # The norm before the head: layer norm has a scale and a shift, RMS norm a scale alone.
        return self.hidden * (2 if self.kind in ("gpt2", "opt") else 1)

    @property
    def _layer(self) -> int:
        d, f = self.hidden, self.ffn
        if self.counted is not None:
            return max(0, self.counted - self.embedding * (1 if self.tied else 2)) // self.layers
        if self.kind in ("gpt2", "opt"):
            # Four square projections and two of the feed-forward part, with biases, then two layer norms.
            return 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        biases = queries + 2 * keys if self.kind == "qwen2" else 0
        # Queries and output, keys and values, the three matrices of a gated feed-forward part, two norms.
        return 2 * d * queries + 2 * d * keys + biases + 3 * d * f + 2 * d

    @property
    def layer_activations(self) -> int:
        """Numbers that one layer keeps for the backward pass, a token, without dropout.

        Layer norm keeps its input, RMS norm as transformers writes it its input twice; attention keeps queries, keys,
        values and output, never the scores (scaled_dot_product_attention).
        """
        d, f = self.hidden, self.ffn
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        if self.kind == "gpt2":
            return 8 * d + 2 * f
        if self.kind == "opt":
            return 8 * d + f
        return 6 * d + 2 * queries + 2 * keys + 4 * f

    def adapter(self, rank: int, everywhere: bool) -> int:
        """Parameters of a LoRA adapter: on queries and values (GPT-2: on all three), or on every linear layer."""
        d, queries, keys = self.hidden, self.heads * self.head_width, self.kv_heads * self.head_width
        # LoRA adds rank x (m + n) to a matrix m x n; GPT-2 has queries, keys and values in one of d x 3 d.
        attention = (d + 3 * d) if self.kind == "gpt2" else (d + queries) + (d + keys)
        if everywhere:
            ffns = 2 if self.kind in ("gpt2", "opt") else 3
            # The output projection, which the first choice left out, and the keys where they stand apart.
            rest = (d + queries) if self.kind == "gpt2" else (d + queries) + (d + keys)
            attention += rest + ffns * (d + self.ffn)
        return self.layers * rank * attention

    @property
    def cache(self) -> int:
        """Numbers of a key-value cache, a token."""
        # Keys and values; with grouped queries several heads share them, so kv_heads counts.
        return 2 * self.layers * self.kv_heads * self.head_width

    def forward_operations(self, context: float = 0.0, head: bool = True) -> float:
        """Floating point operations of a forward pass, a token: two a weight used, and attention over `context`."""
        # Scores, then the weighted sum of values: each costs two operations a number of the context.
        body = self.layers * (2 * self._layer + 4 * context * self.heads * self.head_width)
        return body + (2 * self.embedding if head else 0)


def shape_of(config: Mapping[str, Any], counted: int | None = None) -> Shape:
    """The shape that a config.json, or a profile's `model.init`, describes; `counted` parameters are in the files.

    Settings of a text model inside a larger one are read there.

    Raises: ValueError when it describes no language model that can be read.
    """
    inner = _text_settings(config)
    try:
        if str(inner.get("model_type", "llama")) in FAMILIES:
            shape = _family_shape(inner)
        else:
            shape = _other_shape(_whole(config, inner))
    except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"no shape of a language model ({type(error).__name__}: {error})") from None
    if counted is None or (shape.exact and abs(shape.parameters - counted) <= _SAME * counted):
        return shape
    return replace(shape, counted=counted)


def _text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the text model: the whole, or the section that has a vocabulary."""
    if any(name in config for name in _NEEDED[0]):
        return config
    sections = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    found = [value for value in sections.values() if "vocab_size" in value]
    found += [value for name, value in sections.items() if "text" in name]
    return {**{name: value for name, value in config.items() if name not in sections}, **found[0]} if found else config


def _whole(config: Mapping[str, Any], inner: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text model's settings with those that config.json leaves to transformers' own defaults."""
    if all(any(inner.get(name) is not None for name in names) for names in _NEEDED) and "num_attention_heads" in inner:
        return inner
    # Late: it takes seconds, and only a model of another architecture asks for it.
    from transformers import AutoConfig

    settings = {name: value for name, value in config.items() if name != "model_type"}
    text = AutoConfig.for_model(str(config.get("model_type", "llama")), **settings).get_text_config(decoder=True)
    named = {names[0]: getattr(text, names[0], None) for names in _NEEDED}
    named["num_attention_heads"] = getattr(text, "num_attention_heads", None)
    return {**text.to_dict(), **named}


def _family_shape(config: Mapping[str, Any]) -> Shape:
    kind = str(config.get("model_type", "llama"))
    given = {**_DEFAULTS[kind], **{k: v for k, v in config.items() if v is not None}}
    hidden = int(given["n_embd"] if kind == "gpt2" else given["hidden_size"])
    heads = int(given["n_head"] if kind == "gpt2" else given["num_attention_heads"])
    ffn = {"gpt2": given.get("n_inner") or 4 * hidden, "opt": given.get("ffn_dim")}.get(kind) or given.get(
        "intermediate_size", 4 * hidden
    )
    rates = _DROPOUT.get(kind, (0.0, 0.0))
    names = ("resid_pdrop", "attn_pdrop") if kind == "gpt2" else ("dropout", "attention_dropout")
    residual, attention = (float(given.get(name, rate)) for name, rate in zip(names, rates, strict=True))
    return Shape(
        kind=kind,
        hidden=hidden,
        layers=int(given["n_layer"] if kind == "gpt2" else given["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(given.get("num_key_value_heads") or heads),
        head_width=int(given.get("head_dim") or hidden // heads),
        ffn=int(ffn),
        vocabulary=int(given["vocab_size"]),
        positions=int(given["n_positions"] if kind == "gpt2" else given["max_position_embeddings"]),
        tied=bool(given.get("tie_word_embeddings", kind in ("gpt2", "opt"))),
        dropout=residual > 0,
        attention_dropout=attention > 0,
    )


def _other_shape(given: Mapping[str, Any]) -> Shape:
    """A shape as LLaMA's from whatever of its numbers another architecture has."""

    def number(names: tuple[str, ...], otherwise: int) -> int:
        for name in names:
            value = given.get(name)
            value = max(value) if isinstance(value, list) and value else value  # one for each layer
            if isinstance(value, int) and value > 0:
                return value
        return otherwise

    hidden, layers, vocabulary = (number(names, 0) for names in _NEEDED)
    if not (hidden and layers and vocabulary):
        raise KeyError("hidden_size, num_hidden_layers, vocab_size")
    heads = number(("num_attention_heads", "n_head", "n_heads", "num_heads"), 1)
    return Shape(
        kind=str(given.get("model_type", "llama")),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=number(("num_key_value_heads",), heads),
        head_width=number(("head_dim",), max(1, hidden // heads)),
        ffn=number(("intermediate_size", "n_inner", "ffn_dim", "d_ff"), 4 * hidden),
        vocabulary=vocabulary,
        # Recurrent models have none.
        positions=number(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), _UNBOUNDED),
        tied=bool(given.get("tie_word_embeddings", False)),
    )


def known_shape(hub: str) -> Shape | None:
    """The shape of a hub model that the shipped profiles name, None for another."""
    config = read_yaml(KNOWN)["models"].get(hub)
    return None if config is None else shape_of(config)
