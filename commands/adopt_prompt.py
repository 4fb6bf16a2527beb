"""The prompt that `commands.adopt` writes: a template by the tokenizer, limits by the tokens of the user's own rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.project.errors import DataError

if TYPE_CHECKING:
    from commands.adopt_models import Models
    from distill.data.rows import Row
    from distill.text.settings import PromptSettings

_ALPACA = "Below is an instruction that describes a task"
_CONTEXT = ", paired with an input that provides further context"
_ANSWER = "Write a response that appropriately completes the request."
PAPER = (
    f"{_ALPACA}{_CONTEXT}. {_ANSWER}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n### Response:\n",
    f"{_ALPACA}. {_ANSWER}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n",
)
"""The authors' templates, with an input and without."""
SHORT = ("{instruction}\n{input}\n", "{instruction}\n")
TURN = ("{instruction}\n\n{input}", "{instruction}")

_MEASURED = 5000
_USUAL = 0.95
_STEP = 16
_MOST_TOKENS = 2048
_UNLIMITED = 2**30


@dataclass(frozen=True)
class TokenLimit:
    """Tokens of the rows' prompts, or of their answers with the end of sequence."""

    usual: int
    """95 % of the rows have no more."""
    longest: int
    limit: int
    """What the profile allows."""
    over: int
    """Rows that have more."""


@dataclass(frozen=True)
class Prompt:
    """Templates and limits of `recipe.prompt`."""

    templates: tuple[str, str]
    chat: bool
    prompts: TokenLimit
    responses: TokenLimit
    rows: int
    """Rows that were measured."""

    def settings(self, models: Models) -> PromptSettings:
        """As the profile has them."""
        from distill.text.settings import PromptSettings

        return PromptSettings(
            with_input=self.templates[0],
            without_input=self.templates[1],
            max_prompt_tokens=self.prompts.limit,
            max_response_tokens=self.responses.limit,
            max_sequence_tokens=self.prompts.limit + self.responses.limit,
            chat_template=(models.template or True) if self.chat else False,
            system=models.system,
        )

    @property
    def lines(self) -> list[str]:
        """What a person is told of the limits."""
        return [
            f"  prompts   {_told(self.prompts)}; {self.prompts.over:,} of {self.rows:,} rows are longer and left out",
            f"  answers   {_told(self.responses)}; {self.responses.over:,} of {self.rows:,} rows are cut",
        ]


def choose_prompt(rows: Sequence[Row], tokenizer: Any, models: Models) -> Prompt:
    """Choose templates and limits for two models.

    Raises: DataError when most rows would be left out; ModelError when the tokenizer cannot write a prompt, or cannot
    hold the rows.
    """
    chat, positions = models.chat, models.positions
    # Evenly spread where there are many, because files may be sorted.
    measured = [rows[i * len(rows) // n] for i in range(n)] if (n := min(len(rows), _MEASURED)) < len(rows) else rows
    templates = TURN if chat else PAPER
    if not chat and len(tokenizer(PAPER[0])["input_ids"]) > positions // 4:
        templates = SHORT
    tokens = _measure(measured, tokenizer, templates, models)
    prompt, response = _limits(tokens, min(positions, _MOST_TOKENS))
    over = sum(asked > prompt for asked, _ in tokens)
    if 2 * over > len(tokens):
        raise DataError(
            f"{over:,} of {len(tokens):,} rows have prompts over {prompt} tokens and would be left out: the models "
            f"read {positions:,} tokens, prompt and answer together; give shorter rows, or models that read more"
        )
    cut = sum(answered > prompt + response - asked for asked, answered in tokens if asked <= prompt)
    return Prompt(
        templates,
        chat,
        TokenLimit(*_usual_and_longest([asked for asked, _ in tokens]), prompt, over),
        TokenLimit(*_usual_and_longest([answered for _, answered in tokens]), response, cut),
        len(tokens),
    )


def _measure(rows: Sequence[Row], tokenizer: Any, templates: tuple[str, str], models: Models) -> list[tuple[int, int]]:
    """Tokens of each row's prompt and answer, as the preparation of the data counts them.

    Raises: ModelError when the tokenizer cannot hold the rows.
    """
    from distill.data.coverage import require_readable, unreadable_rows
    from distill.prompting.prompts import encode, render
    from distill.text.settings import PromptSettings

    settings = PromptSettings(
        with_input=templates[0],
        without_input=templates[1],
        max_prompt_tokens=_UNLIMITED,
        max_response_tokens=_UNLIMITED,
        chat_template=(models.template or True) if models.chat else False,
        system=models.system,
    )
    texts = [render(settings, row.instruction, row.input) for row in rows]
    pairs = encode(tokenizer, settings, texts, [row.references[0] for row in rows])
    require_readable("--data", len(rows), unreadable_rows(tokenizer, rows, pairs))
    return [(len(asked), len(answered)) for asked, answered in pairs]


def _limits(tokens: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """Tokens for prompts and for answers, no more than `most` together; answers keep half of it where both are long."""
    prompt, response = (_limit(lengths) for lengths in zip(*tokens, strict=True))
    response = min(response, max(most // 2, most - prompt))
    return min(prompt, most - response), response


def _limit(lengths: Sequence[int]) -> int:
    """A round number over the longest, or over all but the longest 5 % where those are far longer than the rest."""
    usual, longest = _usual_and_longest(lengths)
    return _STEP * math.ceil((longest if longest <= 1.5 * usual else usual) / _STEP)


def _usual_and_longest(lengths: Sequence[int]) -> tuple[int, int]:
    ordered = sorted(lengths)
    return ordered[math.ceil(_USUAL * len(ordered)) - 1], ordered[-1]


def _told(lengths: TokenLimit) -> str:
    return f"{lengths.limit:,} tokens at most (95 % have up to {lengths.usual:,}, the longest {lengths.longest:,})"
