"""What `commands.adopt` needs to know of two models: whether they fit together, their sizes and what they can read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.preflight.decoding import undecodable
from distill.project.errors import ModelError
from distill.project.references import Reference

if TYPE_CHECKING:
    from distill.prompting.chat import ChatForm


@dataclass(frozen=True)
class Models:
    """A teacher and a student that share a tokenizer."""

    teacher_parameters: int
    student_parameters: int
    positions: int
    """Tokens that both can read."""
    chat: bool
    """Whether the tokenizer has a chat template."""
    end_of_turn: str | None
    """The token with which the template ends an answer, where it is not the tokenizer's end-of-sequence token."""
    template: str | None = None
    """The name of the chat template, where it is not the tokenizer's default."""
    system: str | None = None
    """A system turn, for a template that demands one."""
    notes: tuple[str, ...] = ()
    """What a person should know of the template."""
    student_layers: int = 0
    teacher_instructed: bool = False
    """Whether the teacher was tuned to follow instructions, by what `instructed` looks at."""
    student_instructed: bool = False


NO_TEMPLATE = "none"
_SYSTEM = "You are a helpful assistant."


def examine(teacher: Reference, student: Reference, texts: Sequence[str] = (), template: str | None = None) -> Models:
    """Read tokenizers and configurations, no weights.

    The tokenizers are compared on `texts` too. `template`: the name of a chat template, `none` to do without.
    Raises: ModelError when one cannot be read, the tokenizers differ, or the chat template cannot be used.
    """
    import torch

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
    from distill.models.origins import require_weights
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    both = [teacher] if teacher == student else [teacher, student]
    for source in both:
        if source.path is not None:  # an adapter, a GGUF file or pickles, before a tokenizer is missed there
            require_weights(Path(source.path))
    tokenizer, teachers = load_tokenizer(student), load_tokenizer(teacher)
    require_same_tokenizer(teachers, tokenizer, texts)
    if tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer of {student} has no end-of-sequence token; set `eos_token` in its files")
    for source in both:
        if (fault := undecodable(source)) is not None:
            raise ModelError(f"{source}: {fault}")
    sizes = {role: _size(source, tokenizer) for role, source in (("teacher", teacher), ("student", student))}
    form = _form(tokenizer, template)
    end = None if form is None or form.end_of_turn == tokenizer.eos_token else form.end_of_turn
    return Models(
        sizes["teacher"][0],
        sizes["student"][0],
        min(positions for _, positions, _ in sizes.values()),
        form is not None,
        end,
        template if form is not None else None,
        None if form is None else form.system,
        () if form is None else tuple(form.notes),
        sizes["student"][2],
        instructed(teacher, teachers, end),
        instructed(student, tokenizer, end),
    )


def _size(source: Reference, tokenizer: Any) -> tuple[int, int, int]:
    """(parameters, positions, layers), without reading a weight.

    Raises: ModelError when there are fewer rows than tokens.
    """
    from distill.models.loading import rehearse
    from distill.models.parts import require_vocabulary

    model = rehearse(source)
    require_vocabulary(model, tokenizer, str(source))
    inner = model.config.get_text_config(decoder=True)
    text = inner.to_dict()
    positions = int(text.get("max_position_embeddings") or text.get("n_positions") or 2**20)
    return sum(parameter.numel() for parameter in model.parameters()), positions, int(inner.num_hidden_layers)


def _form(tokenizer: Any, template: str | None) -> ChatForm | None:
    """The chat template to use, if any, with a system turn if it will not do without."""
    from distill.prompting.chat import MissingSystemTurnError, chat_form

    if template == NO_TEMPLATE or (template is None and tokenizer.chat_template is None):
        return None
    try:
        try:
            return chat_form(tokenizer, template or True, None)
        except MissingSystemTurnError:
            return chat_form(tokenizer, template or True, _SYSTEM)
    except ModelError as error:
        raise ModelError(
            f"{error}; or give --chat-template: the name of another, or `{NO_TEMPLATE}` to do without"
        ) from None


def instructed(source: Reference, tokenizer: Any, end_of_turn: str | None) -> bool:
    """Whether a model stops at the end of a turn of its chat template; None: where it ends a sequence.

    Base models often come with the template of their instruction-tuned siblings, and do not stop there.
    """
    from transformers import GenerationConfig

    if tokenizer.chat_template is None or end_of_turn is None:
        return tokenizer.chat_template is not None
    try:
        config = GenerationConfig.from_pretrained(
            source.name, revision=source.revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError):  # a model may come without the file
        return False
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return tokenizer.convert_tokens_to_ids(end_of_turn) in stops
