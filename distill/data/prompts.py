"""From rows to token ids: the prompt template, and joint tokenisation of prompt and response.

Trap 7 of the method: a tokenizer may merge the last character of the prompt with the first of the
response. Prompt and response are therefore tokenised together and cut; where the cut does not fall on the
prompt's own ids, the response is tokenised on its own, so that the ids a model is trained to continue are
always the ids it will be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill.project.errors import ModelError
from distill.text.settings import PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]


def render(prompt: PromptSettings, instruction: str, input: str) -> str:
    """The text a model is asked to continue. Braces inside the row's own text are left alone."""
    template = prompt.with_input if input.strip() else prompt.without_input
    # One pass over the template, so that an instruction containing "{input}" is not expanded itself.
    head, _, tail = template.partition("{instruction}")
    return head.replace("{input}", input) + instruction + tail.replace("{input}", input)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, texts: Sequence[str]
) -> list[list[int]]:
    """Token ids of rendered prompts, special tokens the tokenizer puts in front included."""
    if not texts:
        return []
    if prompt.chat_template:
        return [_chat_ids(tokenizer, text) for text in texts]
    return [_without_final_eos(tokenizer, ids) for ids in tokenizer(list(texts))["input_ids"]]


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, texts: Sequence[str], responses: Sequence[str]
) -> list[Pair]:
    """(prompt ids, response ids) of each row; response ids end with eos unless cut at the limit.

    Raises: ModelError when the tokenizer has no end-of-sequence token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so no response could ever end; "
            "set `eos_token` in its tokenizer_config.json"
        )
    if not texts:
        return []
    prompt_ids = encode_prompts(tokenizer, prompt, texts)
    limit = prompt.max_response_tokens
    if prompt.chat_template:
        answers = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    else:
        joint = tokenizer([text + response for text, response in zip(texts, responses, strict=True)])
        answers = []
        for ids, whole, response in zip(prompt_ids, joint["input_ids"], responses, strict=True):
            whole = _without_final_eos(tokenizer, whole)
            if whole[: len(ids)] == ids:
                answers.append(whole[len(ids) :])
            else:
                answers.append(tokenizer(response, add_special_tokens=False)["input_ids"])
    return [(ids, [*answer, eos][:limit]) for ids, answer in zip(prompt_ids, answers, strict=True)]


def _chat_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if tokenizer.chat_template is None:
        raise ModelError("`prompt.chat_template` is on but the tokenizer has no chat template; turn it off")
    turns = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _without_final_eos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    # Some tokenizers close every text with eos; a prompt that ends with eos would never be continued.
    ended = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    return list(ids[:-1]) if ended else list(ids)
