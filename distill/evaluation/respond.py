"""Answering an evaluation set: every prompt once for each seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.evaluation.resumable import FinishedResponses, sample_remaining
from distill.generation.settings import EvaluationSettings
from distill.generation.validation import decode_text
from distill.project.errors import DataError
from distill.project.randomness import key
from distill.prompting.prompts import encode_prompts, fit_prompts, render
from distill.text.settings import PromptSettings


def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptSettings,
    rows: Sequence[dict[str, Any]],
    evaluation: EvaluationSettings,
    name: str,
    batch_size: int,
    finished: FinishedResponses,
    on_batch: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """One row `{id, seed, text, tokens, truncated}` for each example and seed, in that order of seeds.

    Prompts over the limit are cut (`fit_prompts`). Draws are keyed by (seed, set,
    example), so two models answer with the same random numbers. What is `finished` is not sampled again.

    Raises: DataError for an empty set.
    """
    if not rows:
        raise DataError(f"the evaluation set `{name}` has no rows; check evaluation/{name}.report.json")
    texts = [render(prompt, row["instruction"], row["input"]) for row in rows]
    ids = fit_prompts(tokenizer, prompt, encode_prompts(tokenizer, prompt, texts))
    pairs = [(seed, i) for seed in evaluation.seeds for i in range(len(rows))]
    responses = sample_remaining(
        model,
        [ids[i] for _, i in pairs],
        [key(seed, "evaluation", name, int(rows[i]["id"])) for seed, i in pairs],
        finished,
        max_new_tokens=prompt.max_response_tokens,
        eos_id=int(tokenizer.eos_token_id),
        batch_size=batch_size,
        sampling=evaluation.sampling,
        on_batch=on_batch,
    )
    return [
        {
            "id": rows[i]["id"],
            "seed": seed,
            "text": decode_text(tokenizer, response.ids),
            "tokens": len(response.ids),
            "truncated": response.truncated,
        }
        for (seed, i), response in zip(pairs, responses, strict=True)
    ]
