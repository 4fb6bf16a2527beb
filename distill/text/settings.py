"""Settings of prompts and tokenizers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from distill.project.references import Reference
from distill.project.settings import Settings


class PromptSettings(Settings):
    """The prompt template, and the limits on prompts, responses and whole rows."""

    with_input: str
    """Template with `{instruction}` and `{input}`."""
    without_input: str
    """Template with `{instruction}` alone, for rows whose input is empty."""
    max_prompt_tokens: Annotated[int, Field(ge=1)]
    """Training prompts over this are dropped and counted; evaluation prompts keep their first tokens."""
    max_response_tokens: Annotated[int, Field(ge=1)]
    """The most tokens that a model writes, wherever it samples; data have this limit too while
    `max_sequence_tokens` is null."""
    max_sequence_tokens: Annotated[int, Field(ge=2)] | None = None
    """Rows of data are cut at this many tokens of prompt and response together (the paper: 512). Null: their
    responses are cut at `max_response_tokens`. A cut response has no end-of-sequence token."""
    chat_template: bool | Annotated[str, Field(min_length=1)] = False
    """Wrap the rendered text as one user turn with the tokenizer's own chat template, or with the one of this name."""
    system: str | None = None
    """With `chat_template`: the system turn before it, which may be empty; null leaves it to the template."""

    @model_validator(mode="after")
    def _placeholders(self) -> PromptSettings:
        if "{instruction}" not in self.with_input or "{input}" not in self.with_input:
            raise ValueError("`with_input` must contain {instruction} and {input}")
        if "{instruction}" not in self.without_input:
            raise ValueError("`without_input` must contain {instruction}")
        if self.system is not None and not self.chat_template:
            raise ValueError("`system` is a turn of a chat; set `chat_template: true` or remove it")
        if self.max_sequence_tokens is not None and self.max_sequence_tokens <= self.max_prompt_tokens:
            raise ValueError(
                f"`max_sequence_tokens` ({self.max_sequence_tokens}) leaves a prompt of `max_prompt_tokens` "
                f"({self.max_prompt_tokens}) no response; raise the first or lower the second"
            )
        return self

    def response_limit(self, prompt_tokens: int) -> int:
        """The most response tokens, end of sequence included, of a row of data with so long a prompt."""
        if self.max_sequence_tokens is None:
            return self.max_response_tokens
        # A prompt over its own limit is dropped or cut later on, so it takes no more room than the limit.
        return self.max_sequence_tokens - min(prompt_tokens, self.max_prompt_tokens)

    @property
    def longest_sequence(self) -> int:
        """The most tokens that a model reads or writes in one sequence, in training or in generation."""
        return max(self.max_prompt_tokens + self.max_response_tokens, self.max_sequence_tokens or 0)


class TrainedTokenizer(Settings):
    """A byte-level BPE learned from the family's own training text."""

    vocab_size: Annotated[int, Field(ge=258)]
    """Number of tokens, 256 bytes and the end-of-sequence token included."""


class TokenizerSettings(Settings):
    """The one tokenizer a family's teacher and students share: learned here, or taken from somewhere."""

    train: TrainedTokenizer | None = None
    """Learn it from the training rows and the corpus."""
    source: Reference | None = None
    """Take it from a hub id or a folder (a folder may hold just GPT-2's `vocab.json` and `merges.txt`)."""
    eos_token: str | None = None
    """The token that ends a response, if not the end-of-sequence token of `source`: `<|im_end|>` for models that end a
    turn of a chat with it."""

    @model_validator(mode="after")
    def _exactly_one(self) -> TokenizerSettings:
        if (self.train is None) == (self.source is None):
            raise ValueError("give exactly one of `train` and `source`")
        if self.eos_token is not None and self.source is None:
            raise ValueError("`eos_token` is for a tokenizer from elsewhere; one learned here has its own")
        return self
