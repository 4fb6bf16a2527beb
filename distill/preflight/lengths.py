"""The lengths of a family's data in tokens: prepared, read for the purpose, or guessed from the files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill.data.rows import read_split
from distill.data.settings import DataSettings
from distill.data.sources import locate
from distill.project.errors import DistillError
from distill.project.files import read_json
from distill.prompting.prompts import render
from distill.text.settings import PromptSettings, TokenizerSettings

# Rows that are tokenised to know all rows' lengths; rows that are read where there is no tokenizer.
_COUNTED = 2000
_LOOKED_AT = 200
# Of a token: English in the vocabularies of the models at hand has 3.5 to 4.5.
_CHARACTERS = 4.0


@dataclass(frozen=True)
class Lengths:
    """Lengths of the prepared data, or the limits of the settings before there are any."""

    rows: int | None
    """Training rows; None before they are known."""
    valid: int | None
    prompt: float
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response of the data."""
    longest_prompt: int
    longest_response: int
    longest_sequence: int
    """Tokens of the longest row, prompt and response together; no less than any row has."""
    generated: float
    """Mean tokens of a sampled response: as in the data, while the limit of generation allows."""
    known: bool
    """Read from prepared data."""
    valid_p95: int | None = None
    """Response tokens that 19 of 20 validation rows do not exceed; None while nobody knows."""
    prompt_p95: int | None = None
    """The same of the training rows' prompts."""
    response_p95: int | None = None
    limit: int | None = None
    """The most tokens that a model writes; None: the longest response."""

    def validation_tokens(self, rows: int) -> int:
        """No fewer response tokens than any `rows` validation rows hold together."""
        if self.valid is None or self.valid_p95 is None:
            return rows * self.longest_response
        # At most a twentieth of the set is above p95; all rows at the maximum would be twice what Dolly's batches hold.
        above = min(rows, self.valid // 20)
        return above * self.longest_response + (rows - above) * self.valid_p95

    def padded_prompt(self, rows: int, batch: int) -> float:
        """Mean tokens of a prompt and its padding, where `rows` sorted prompts are read `batch` at a time."""
        widest = _expected_longest(rows, self.prompt, self.prompt_p95, self.longest_prompt)
        # The last batch is as wide as the longest row, each before it narrower.
        return self.prompt + (widest - self.prompt) / max(1.0, rows / batch)

    def padded_row(self, pool: int, batch: int) -> float:
        """Mean tokens of a row and its padding, where every `pool` rows are sorted and cut into batches of `batch`."""
        mean, p95 = self.prompt + self.response, None
        if self.prompt_p95 is not None and self.response_p95 is not None:
            # As if the two were independent.
            p95 = round(mean + math.hypot(self.prompt_p95 - self.prompt, self.response_p95 - self.response))
        widest = _expected_longest(pool, mean, p95, self.longest_sequence)
        return mean + (widest - mean) / max(1.0, pool / batch)

    def decode_steps(self, rows: int) -> float:
        """Expected steps of a decode of `rows` rows: those of its longest response."""
        limit = self.limit or self.longest_response
        # A sampled text may fail to end, so that some row of a batch nearly always reaches the limit.
        return limit - (limit - min(self.generated, limit)) * 0.8**rows


def _expected_longest(rows: int, mean: float, p95: int | None, longest: int) -> float:
    """The expected maximum of `rows` lengths, by straight lines between the median (the mean), p95 and the maximum."""
    if p95 is None or rows <= 1:
        return mean
    quantile = rows / (rows + 1)
    if quantile <= 0.95:
        return mean + (p95 - mean) * (quantile - 0.5) / 0.45
    return p95 + (max(longest, p95) - p95) * (quantile - 0.95) / 0.05


def read_lengths(data: Path, prompt: PromptSettings, expected_rows: int | None) -> Lengths:
    """Read from preparation's audit in `data`, or else from the limits of the prompt settings and `expected_rows`."""
    path = data / "report.json"
    return lengths_of(read_json(path)["splits"], prompt) if path.is_file() else _limits(prompt, expected_rows)


def lengths_of(splits: Mapping[str, Any], prompt: PromptSettings) -> Lengths:
    """The lengths that an audit's `splits` tell."""
    train, valid = splits["train"], splits.get("valid", {})
    prompts, responses = train["prompt_tokens"], train["response_tokens"]
    prompt_max = max(prompts["max"], valid.get("prompt_tokens", prompts)["max"])
    response_max = max(responses["max"], valid.get("response_tokens", responses)["max"])
    # The audit counts the two apart; the longest of each need not meet in one row.
    longest = prompt_max + response_max
    return Lengths(
        train["kept"],
        valid.get("kept"),
        prompts["mean"],
        responses["mean"],
        prompt_max,
        response_max,
        longest if prompt.max_sequence_tokens is None else min(longest, prompt.max_sequence_tokens),
        min(responses["mean"], float(prompt.max_response_tokens)),
        known=True,
        valid_p95=valid.get("response_tokens", {}).get("p95"),
        prompt_p95=prompts["p95"],
        response_p95=responses["p95"],
        limit=prompt.max_response_tokens,
    )


def counted_lengths(data: DataSettings, prompt: PromptSettings, tokens: TokenizerSettings, base: Path) -> Lengths:
    """Prepare the rows in memory, of which the first 2,000 are tokenised, and write nothing.

    Raises: DataError and ModelError, as preparation would.
    """
    from distill.data.audit import count_tokens
    from distill.data.prepare import encode_split, read_sources
    from distill.text.tokenizers import build_tokenizer

    sources = read_sources(data, base)
    few = replace(sources.train, rows=sources.train.rows[:_COUNTED])
    texts = (render(prompt, row.instruction, row.input) + row.references[0] for row in few.rows)
    tokenizer = build_tokenizer(tokens, texts)
    splits = {}
    for name, split in (("train", few), ("valid", replace(sources.valid, rows=sources.valid.rows[:_COUNTED]))):
        encoded = encode_split(split, prompt, tokenizer)
        share = len(encoded.pairs) / len(split.rows)
        splits[name] = {
            "kept": round(share * len((sources.train if name == "train" else sources.valid).rows)),
            "prompt_tokens": asdict(count_tokens([ids for ids, _ in encoded.pairs])),
            "response_tokens": asdict(count_tokens([ids for _, ids in encoded.pairs])),
        }
    return lengths_of(splits, prompt)


def guessed_lengths(data: DataSettings, prompt: PromptSettings, base: Path) -> Lengths:
    """A guess without a tokenizer: rows by the file's lines, tokens by the characters of its first rows."""
    world = data.world
    limits = _limits(prompt, world.train if world else None)
    if world is not None:
        return replace(limits, valid=world.valid)
    source = data.train
    if source is None or source.path is None or not source.path.lower().endswith((".jsonl", ".json")):
        return limits
    path = locate(source.path, base)
    try:
        few = read_split(source.model_copy(update={"limit": _LOOKED_AT}), data.fields, "skip", base).rows
        if path.suffix.lower() == ".json":  # a list, which is read whole in any case
            rows = read_split(source, data.fields, "skip", base).read
        else:
            rows = count_lines(path)
    except DistillError:
        return limits  # preparation says what is wrong with the file
    rows = min(rows, source.limit or rows)
    valid = min(rows - 1, data.valid_rows or rows // 10)
    asked = sum(len(render(prompt, row.instruction, row.input)) for row in few) / len(few) / _CHARACTERS
    told = sum(len(row.references[0]) for row in few) / len(few) / _CHARACTERS + 1
    asked = min(asked, limits.prompt)
    told = min(told, float(prompt.response_limit(round(asked))))
    kept = max(1, rows - valid)
    return replace(
        limits, rows=kept, valid=valid, prompt=asked, response=told, generated=min(told, float(limits.limit or told))
    )


def count_lines(path: Path) -> int:
    """Lines of a file that are not empty."""
    with path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def _limits(prompt: PromptSettings, rows: int | None) -> Lengths:
    longest, sequence = prompt.max_prompt_tokens, prompt.max_sequence_tokens
    # The longest response stands behind a prompt of one token, the mean row holds a prompt at its limit.
    return Lengths(
        rows,
        None,
        float(longest),
        float(prompt.response_limit(longest)),
        longest,
        prompt.response_limit(1),
        sequence or longest + prompt.max_response_tokens,
        float(min(prompt.response_limit(longest), prompt.max_response_tokens)),
        known=False,
        limit=prompt.max_response_tokens,
    )
