"""From rows to token ids: the prompt template, and joint tokenisation of prompt and response.

Trap 7 of the method: a tokenizer may merge the last character of the prompt with the first of the
response. Prompt and response are therefore tokenised together and cut; where the cut does not fall on the
prompt's own ids, the response is tokenised on its own, so that the ids a model is trained to continue are
always the ids it will be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

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
    """Token ids of rendered prompts, special tokens the tokenizer puts in front included.

    Raises: ModelError when a chat is asked for and the tokenizer has no template that can write it.
    """
    return _tokenise(tokenizer, prompt, [_opened(tokenizer, prompt, text) for text in texts])


def fit_prompts(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, prompts: Sequence[list[int]]
) -> list[list[int]]:
    """Encoded prompts within the limit: longer ones keep their first tokens, as in the paper's protocol.

    Of a chat they keep the last ones too, which close the user's turn and open the answer.
    """
    limit = prompt.max_prompt_tokens
    if not prompt.chat_template or all(len(ids) <= limit for ids in prompts):
        return [ids[:limit] for ids in prompts]
    one, other = encode_prompts(tokenizer, prompt, ["a", "b c"])
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    if same >= limit:
        raise ModelError(f"what the chat template adds takes {same} tokens alone; raise `max_prompt_tokens` ({limit})")
    return [ids if len(ids) <= limit else ids[: limit - same] + ids[len(ids) - same :] for ids in prompts]


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, texts: Sequence[str], responses: Sequence[str]
) -> list[Pair]:
    """(prompt ids, response ids) of each row; response ids end with eos unless cut at the limit.

    Raises: ModelError when the tokenizer has no end-of-sequence token, and as `encode_prompts`.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so no response could ever end; "
            "set `eos_token` in its tokenizer_config.json"
        )
    opened = [_opened(tokenizer, prompt, text) for text in texts]
    prompt_ids = _tokenise(tokenizer, prompt, opened)
    joint = _tokenise(tokenizer, prompt, [text + response for text, response in zip(opened, responses, strict=True)])
    answers = []
    for ids, whole, response in zip(prompt_ids, joint, responses, strict=True):
        if whole[: len(ids)] == ids:
            answers.append(whole[len(ids) :])
        else:
            answers.append(tokenizer(response, add_special_tokens=False)["input_ids"])
    # The end of sequence counts: a response that fits only without it is cut, and does not learn to end.
    return [
        (ids, [*answer, eos][: prompt.response_limit(len(ids))]) for ids, answer in zip(prompt_ids, answers, strict=True)
    ]


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, texts: Sequence[str]
) -> list[list[int]]:
    if not texts:
        return []
    if prompt.chat_template:  # the template writes the special tokens itself
        return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    return [_without_final_eos(tokenizer, ids) for ids in tokenizer(list(texts))["input_ids"]]


def _opened(tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, text: str) -> str:
    """The text a response follows: the rendered prompt, as a chat up to where the answer begins if so set."""
    if not prompt.chat_template:
        return text
    if tokenizer.chat_template is None:
        raise ModelError("`prompt.chat_template` is on but the tokenizer has no chat template; turn it off")
    turns = [{"role": "user", "content": text}]
    if prompt.system is not None:
        turns.insert(0, {"role": "system", "content": prompt.system})
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise ModelError(
            f"the tokenizer's chat template refuses the turns ({error}); remove `prompt.system` if it knows none"
        ) from None


def _without_final_eos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    # Some tokenizers close every text with eos; a prompt that ends with eos would never be continued.
    ended = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    return list(ids[:-1]) if ended else list(ids)
