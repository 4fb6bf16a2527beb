"""What `commands.adopt` needs to know of two models: whether they fit together, their sizes and what they can read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from distill.project.errors import ModelError
from distill.project.references import Reference


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


def examine(teacher: Reference, student: Reference) -> Models:
    """Read tokenizers and configurations, no weights.

    Raises: ModelError when one cannot be read, or the tokenizers differ.
    """
    import torch

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    tokenizer = load_tokenizer(student)
    require_same_tokenizer(load_tokenizer(teacher), tokenizer)
    if tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer of {student} has no end-of-sequence token; set `eos_token` in its files")
    sizes = {role: _size(source) for role, source in (("teacher", teacher), ("student", student))}
    return Models(
        sizes["teacher"][0],
        sizes["student"][0],
        min(positions for _, positions in sizes.values()),
        tokenizer.chat_template is not None,
        end_of_turn(tokenizer),
    )


def _size(source: Reference) -> tuple[int, int]:
    """(parameters, positions), without reading a weight."""
    from distill.models.loading import rehearse

    model = rehearse(source)
    config = model.config.get_text_config(decoder=True).to_dict()
    positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 2**20)
    return sum(parameter.numel() for parameter in model.parameters()), positions


def end_of_turn(tokenizer: Any) -> str | None:
    """What the chat template writes right behind an answer, where that is a token other than end-of-sequence."""
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "MARK"}]
    behind = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("MARK")[2]
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    first = tokenizer.convert_ids_to_tokens(ids[0]) if ids else None
    special = first is not None and tokenizer.get_added_vocab().get(first) == ids[0]
    return str(first) if special and first != tokenizer.eos_token else None
