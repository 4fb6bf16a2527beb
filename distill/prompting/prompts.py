"""From rows to token ids: the prompt template, and joint tokenisation of prompt and response.

Trap 7 of the method: a tokenizer may merge the last character of the prompt with the first of the
response. Prompt and response are therefore tokenised together and cut; where the cut does not fall on the
prompt's own ids, the response is tokenised on its own, so that the ids a model is trained to continue are
always the ids it will be given. Control tokens come from the templates alone (distill/prompting/control_tokens.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from distill.project.errors import ModelError
from distill.prompting.chat import ChatForm, chat_form
from distill.prompting.control_tokens import Composed, Piece, Reading, pieces_of, read_texts
from distill.text.settings import PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]


class EncodedRow(NamedTuple):
    """A row of data as a model sees it."""

    prompt_ids: list[int]
    response_ids: list[int]
    """Ends with eos unless cut at the limit."""
    held_control_text: bool
    """Whether prompt or response had words of a control token in it, which stayed text."""


def render(prompt: PromptSettings, instruction: str, input: str) -> Composed:
    """The text a model is asked to continue. Braces inside the row's own text are left alone."""
    template = prompt.with_input if input.strip() else prompt.without_input
    # One pass over the template, so that an instruction containing "{input}" is not expanded itself.
    head, _, tail = template.partition("{instruction}")
    row = Piece(instruction, template=False)
    return Composed([piece for piece in (*_fill(head, input), row, *_fill(tail, input)) if piece.text])


def _fill(template: str, input: str) -> list[Piece]:
    first, *others = template.split("{input}")
    pieces = [Piece(first, template=True)]
    for words in others:
        pieces += [Piece(input, template=False), Piece(words, template=True)]
    return pieces


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered prompts, special tokens the tokenizer puts in front included.

    Raises: ModelError when a chat is asked for and the tokenizer has no template that can write it.
    """
    reader = _Reader(tokenizer, prompt)
    return [reading.ids for reading in reader.read([reader.open(text) for text in texts])]


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
    """(prompt ids, response ids) of each row; as `encode_rows`."""
    return [(row.prompt_ids, row.response_ids) for row in encode_rows(tokenizer, prompt, texts, responses)]


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, texts: Sequence[str], responses: Sequence[str]
) -> list[EncodedRow]:
    """Each rendered prompt with its response; response ids end with eos unless cut at the limit.

    Raises: ModelError when the tokenizer has no end-of-sequence token, and as `encode_prompts`.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so no response could ever end; "
            "set `eos_token` in its tokenizer_config.json"
        )
    reader = _Reader(tokenizer, prompt)
    opened = [reader.open(text) for text in texts]
    answers = [Piece(response, template=False) for response in responses]
    joint = [Composed([*pieces_of(text), answer]) for text, answer in zip(opened, answers, strict=True)]
    rows = []
    for own, whole, response in zip(reader.read(opened), reader.read(joint), responses, strict=True):
        ids, answer_ids = own.ids, whole.ids[len(own.ids) :]
        if whole.ids[: len(ids)] != ids:
            [alone] = read_texts(tokenizer, [response], special=False, written=reader.written)
            answer_ids = alone.ids
        # The end of sequence counts: a response that fits only without it is cut, and does not learn to end.
        answer_ids = [*answer_ids, eos][: prompt.response_limit(len(ids))]
        rows.append(EncodedRow(ids, answer_ids, whole.held_control_text))
    return rows


class _Reader:
    """The tokenizer under a prompt's settings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings) -> None:
        self._tokenizer = tokenizer
        self._form: ChatForm | None = None
        if prompt.chat_template is not False:
            self._form = chat_form(tokenizer, prompt.chat_template, prompt.system)
        fixed = () if self._form is None else self._form.fixed
        self.written = "\n".join([prompt.with_input, prompt.without_input, *fixed])

    def open(self, text: str) -> str:
        """The text a response follows: the rendered prompt, as a chat up to where the answer begins if so set."""
        return text if self._form is None else self._form.open(text)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Token ids; a chat template writes the special tokens itself."""
        if self._form is not None:
            return read_texts(self._tokenizer, texts, special=False, written=self.written)
        found = read_texts(self._tokenizer, texts, special=True, written=self.written)
        return [reading._replace(ids=_without_final_eos(self._tokenizer, reading.ids)) for reading in found]


def _without_final_eos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    # Some tokenizers close every text with eos; a prompt that ends with eos would never be continued.
    ended = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    return list(ids[:-1]) if ended else list(ids)
