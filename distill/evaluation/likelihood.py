"""How probable a model finds given responses: the token-mean loss on references, and the words of a label.

The loss is -log q(y | x) averaged over the tokens of each reference, its end-of-sequence token included, then
over the examples (paper Table 3; the reference implementation leaves that last token out). Of several references
it takes the first, which is the one that training would see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.models.parts import backbone, label_logprobs
from distill.prompting.prompts import encode, fit_prompts, render
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example
from distill.text.settings import PromptSettings

# Tokens whose distribution over the vocabulary stands in memory at once; of a large vocabulary fewer.
_POSITIONS = 2048


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, rows: Sequence[dict[str, Any]]
) -> list[Example]:
    """Rows of `evaluation/<set>.jsonl` with their first reference; prompts over the limit are cut."""
    texts = [render(prompt, row["instruction"], row["input"]) for row in rows]
    references = [row["output"][0] for row in rows]
    pairs = encode(tokenizer, prompt, texts, references)
    prompts = fit_prompts(tokenizer, prompt, [prompt_ids for prompt_ids, _ in pairs])
    return [
        Example(number, prompts[number], response_ids, reference)
        for number, ((_, response_ids), reference) in enumerate(zip(pairs, references, strict=True))
    ]


@torch.no_grad()
def response_logprobs(model: PreTrainedModel, examples: Sequence[Example], batch_size: int) -> list[Tensor]:
    """Log q of each response token, a tensor [T] for each example, in their order."""
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt_ids) + len(examples[i].response_ids))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = {n: values.to(model.device) for n, values in collate([examples[i] for i in chosen]).items()}
        # Shifted by one: position t - 1 predicts token t, and no position predicts the first.
        labels = batch["labels"][:, 1:]
        kept = labels != IGNORED
        # Right padding needs no mask in a causal model: no real token looks at it.
        hidden = backbone(model)(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1][kept]
        flat = label_logprobs(model, hidden, labels[kept], at_once=_POSITIONS).cpu()
        found.update(zip(chosen, flat.split([len(examples[i].response_ids) for i in chosen]), strict=True))
    return [found[i] for i in range(len(examples))]


def token_mean_losses(model: PreTrainedModel, examples: Sequence[Example], batch_size: int) -> list[float]:
    """-log q of each reference, nats a token of it, [N]."""
    # Mean over its own tokens: a long reference weighs no more than a short one.
    return [-float(logprobs.mean()) for logprobs in response_logprobs(model, examples, batch_size)]


def encode_words(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, rows: Sequence[dict[str, Any]]
) -> tuple[list[Example], list[int]]:
    """Each labelled row with each of its words as the beginning of a response, and the rows that were kept.

    A row whose prompt is over the limit is left out: cut, it would lose the question.
    """
    examples: list[Example] = []
    kept: list[int] = []
    for place, row in enumerate(rows):
        text = render(prompt, row["instruction"], row["input"])
        pairs = encode(tokenizer, prompt, [text] * len(row["words"]), row["words"])
        if len(pairs[0][0]) > prompt.max_prompt_tokens:
            continue
        kept.append(place)
        # Without the end-of-sequence token: the response may go on as it likes.
        examples += [
            Example(len(examples) + column, prompt_ids, [t for t in ids if t != tokenizer.eos_token_id], word)
            for column, ((prompt_ids, ids), word) in enumerate(zip(pairs, row["words"], strict=True))
        ]
    return examples, kept


def word_logprobs(model: PreTrainedModel, examples: Sequence[Example], words: int, batch_size: int) -> Tensor:
    """Log q of each of K `words` of N prompts, from the examples of `encode_words`, [N, K]."""
    # A sum, not a mean: a word of several tokens has the product of their probabilities.
    sums = [logprobs.sum() for logprobs in response_logprobs(model, examples, batch_size)]
    return torch.stack(sums).view(-1, words)
