"""Text that stays text: only what a template writes becomes control tokens, whatever a row says.

A row may hold the words `<|endoftext|>` or `<|im_end|>`. A tokenizer makes the control token of them, which ends an
answer in its middle or opens a turn that nobody wrote. Here such a text is read a second time, by a copy of the
tokenizer in which every control token has a secret name, and only in the template's own pieces are the names put in.
All other tokens, their ids and the merges across pieces are those of the tokenizer; a text without control tokens of
its own keeps the ids that the tokenizer gives.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.project.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Models write markup of their own in brackets, and not all of it is flagged as special (`<tool_call>`, `<think>`).
_MARKUP = re.compile(r"<.+>|\[.+\]|\{.+\}", re.DOTALL)
# One byte each of a text that has no token; they are text.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SHORTEST_WRITTEN = 3


class Piece(NamedTuple):
    """A part of a text."""

    text: str
    template: bool
    """Whether a template wrote it: only then may it hold control tokens."""


class Composed(str):
    """A text that knows which of its pieces a template wrote, and which a row brought."""

    pieces: tuple[Piece, ...]

    def __new__(cls, pieces: Sequence[Piece]) -> Composed:
        """The pieces, joined."""
        joined = super().__new__(cls, "".join(piece.text for piece in pieces))
        joined.pieces = tuple(pieces)
        return joined


class Reading(NamedTuple):
    """A text as token ids."""

    ids: list[int]
    held_control_text: bool
    """Whether something in it looked like a control token and was kept as text."""


def pieces_of(text: str) -> tuple[Piece, ...]:
    """The pieces of a text; one that no template made is a row's."""
    return text.pieces if isinstance(text, Composed) else (Piece(text, template=False),)


def control_tokens(tokenizer: PreTrainedTokenizerBase, written: str = "") -> dict[str, int]:
    """Control tokens and their ids: special or named ones, markup, and added tokens that a template has `written`.

    Added words and runs of spaces are text.
    """
    named = set(tokenizer.all_special_tokens)
    return {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content in named or _is_markup(token.content) or _is_phrase(token.content, written)
    }


def read_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool, written: str = ""
) -> list[Reading]:
    """Token ids of each text; `special` adds what the tokenizer puts around a text (BOS, for example).

    `written`: words of templates, in which added tokens are control tokens even if nothing marks them as such.
    Raises: ModelError when a tokenizer of its own kind knows no other reading of a control token.
    """
    if not texts:
        return []
    controls = control_tokens(tokenizer, written)
    known = frozenset(controls.values())
    expected: dict[str, list[int]] = {}
    readings = []
    found = tokenizer([str(text) for text in texts], add_special_tokens=special)["input_ids"]
    for text, ids in zip(texts, found, strict=True):
        pieces = pieces_of(text)
        # The same text with a harmless letter for what the row brought: the control tokens that may be in it.
        neutral = "".join(piece.text if piece.template else "a" for piece in pieces)
        if neutral not in expected:
            own = tokenizer(neutral, add_special_tokens=special)["input_ids"]
            expected[neutral] = [token for token in own if token in known]
        if [token for token in ids if token in known] == expected[neutral]:
            readings.append(Reading(list(ids), held_control_text=False))
        else:
            kept = _read_as_text(tokenizer, pieces, controls, special)
            # The unknown token stands for odd characters too: then both readings are the same.
            readings.append(Reading(kept, held_control_text=kept != list(ids)))
    return readings


def encode_documents(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> list[list[int]]:
    """Token ids of documents, none of whose words becomes a control token."""
    return [reading.ids for reading in read_texts(tokenizer, documents, special=True)]


def _is_markup(content: str) -> bool:
    return _MARKUP.fullmatch(content) is not None and _BYTE.fullmatch(content) is None


def _is_phrase(content: str, written: str) -> bool:
    # A word, a space or a sign that a template happens to contain too is text.
    return len(content.strip()) >= _SHORTEST_WRITTEN and not content.isalnum() and content in written


def _read_as_text(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], controls: dict[str, int], special: bool
) -> list[int]:
    if tokenizer.is_fast:
        return _copy_of(tokenizer, len(tokenizer), tuple(controls.items())).read(pieces, special)
    ids: list[int] = []
    known = {token for token in controls.values() if token != tokenizer.unk_token_id}
    for piece in pieces:
        own = tokenizer(piece.text, add_special_tokens=False, split_special_tokens=not piece.template)["input_ids"]
        if not piece.template and any(token in known for token in own):
            raise ModelError(
                f"this tokenizer reads control tokens out of the text {piece.text[:80]!r}; "
                "use one with a tokenizer.json, or take such words out of the rows"
            )
        ids += own
    return list(tokenizer.build_inputs_with_special_tokens(ids)) if special else ids


class _Renamed:
    """A copy of a tokenizer whose control tokens answer to secret names only."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, controls: dict[str, int]) -> None:
        nonce = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
        # Lower-case letters survive every normaliser; brackets keep the names off the words beside them.
        self._names = {content: f"<{nonce}{_letters(number)}>" for number, content in enumerate(controls)}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._backend = self._rename(tokenizer)
        moved = [old for old, new in self._names.items() if self._backend.token_to_id(new) != controls[old]]
        if moved:
            raise ModelError(
                f"the tokenizer's file and its added tokens disagree on {moved[0]!r}, so texts that hold it cannot be "
                "read; load and save the tokenizer once with transformers, and use that"
            )

    def read(self, pieces: Sequence[Piece], special: bool) -> list[int]:
        """Token ids, with the control tokens of template pieces alone."""
        text = "".join(
            self._pattern.sub(lambda found: self._names[found[0]], piece.text) if piece.template else piece.text
            for piece in pieces
        )
        return list(self._backend.encode(text, add_special_tokens=special).ids)

    def _rename(self, tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
        from tokenizers import Tokenizer

        content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        content["truncation"] = content["padding"] = None
        for token in content["added_tokens"]:
            token["content"] = self._name(token["content"])
        model = content["model"]
        vocabulary = model["vocab"]
        # Some models hold control tokens among their words, and find them there without being asked to.
        if isinstance(vocabulary, dict):
            model["vocab"] = {self._name(word): index for word, index in vocabulary.items()}
        else:
            model["vocab"] = [[self._name(word), *score] for word, *score in vocabulary]
        if isinstance(model.get("unk_token"), str):
            model["unk_token"] = self._name(model["unk_token"])
        if "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [[a, b] for a, b in pairs if not self._names.keys() & {a, b, a + b}]
        return Tokenizer.from_str(json.dumps(content))

    def _name(self, word: str) -> str:
        return self._names.get(word, word)


@lru_cache(maxsize=4)
def _copy_of(tokenizer: PreTrainedTokenizerBase, size: int, controls: tuple[tuple[str, int], ...]) -> _Renamed:
    # `size` is part of the key: a tokenizer to which tokens were added needs another copy.
    return _Renamed(tokenizer, dict(controls))


def _letters(number: int) -> str:
    high, low = divmod(number, 26)
    return (_letters(high - 1) if high else "") + string.ascii_lowercase[low]
