"""Rows that a tokenizer cannot hold: text of which token ids keep only a part."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distill.data.rows import Row
from distill.project.errors import ModelError
from distill.prompting.prompts import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "unknown_tokens"
NOT_RETURNED = "text_not_returned"
_MOST = 0.1
# A cut answer may end inside a character, or between a letter and its accent.
_UNSURE_END = 4


def unreadable_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], pairs: Sequence[Pair]
) -> dict[str, list[int]]:
    """Numbers of the rows with a token for unknown text, and of those whose text does not come back from its ids.

    White space may differ, and forms of a letter that Unicode calls compatible.
    """
    prompts = tokenizer.batch_decode([ids for ids, _ in pairs], skip_special_tokens=True)
    answers = tokenizer.batch_decode([ids for _, ids in pairs], skip_special_tokens=True)
    found: dict[str, list[int]] = {UNKNOWN: [], NOT_RETURNED: []}
    for row, (prompt_ids, response_ids), prompt, answer in zip(rows, pairs, prompts, answers, strict=True):
        cut = response_ids[-1:] != [tokenizer.eos_token_id]
        asked = _bare(prompt)
        whole = all(_bare(text) in asked for text in (row.instruction, row.input))
        if not (whole and _comes_back(row.references[0], answer, cut)):
            found[NOT_RETURNED].append(row.number)
        if _has_unknown(tokenizer, prompt_ids, response_ids):
            found[UNKNOWN].append(row.number)
    return found


def require_readable(split: str, rows: int, found: Mapping[str, Sequence[int]]) -> None:
    """Refuse a tokenizer that cannot hold more than a tenth of a split's rows. Raises: ModelError."""
    lost = sorted({number for numbers in found.values() for number in numbers})
    if len(lost) > _MOST * rows:
        raise ModelError(
            f"the tokenizer cannot hold {len(lost):,} of the {rows:,} rows of {split} (the first is row {lost[0]}): "
            f"{len(found[UNKNOWN]):,} have text that it knows no token for, and {len(found[NOT_RETURNED]):,} come back "
            "from their token ids as another text; take a model whose tokenizer is for this language and keeps case "
            "and accents"
        )


def _comes_back(text: str, decoded: str, cut: bool) -> bool:
    ours, theirs = _bare(text), _bare(decoded)
    return ours.startswith(theirs[:-_UNSURE_END]) if cut else ours == theirs


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _has_unknown(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> bool:
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return False
    if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):  # as in GPT-2: only inside an answer is it unknown
        return unknown in response_ids[:-1]
    return unknown in prompt_ids or unknown in response_ids
