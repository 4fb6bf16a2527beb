"""What `commands.adopt` sees of two models on some of the user's rows: their losses, and which layers may go."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.evaluation.guessing import FirstLook
from distill.preflight.findings import gibibytes
from distill.preflight.machine import read_machine
from distill.project.errors import SettingsError
from distill.project.randomness import permutation
from distill.project.references import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from commands.adopt_models import Models
    from distill.data.rows import Row
    from distill.text.examples import Example
    from distill.text.settings import PromptSettings

# Read in minutes on a CPU; a larger model is looked at by the stage `base`, on the machine that trains it.
LARGEST_READ = 1.5e9
_NUMBER = 4  # bytes; weights are read in float32
_ROWS = 400  # from which the frequencies of tokens are counted
_CUT_ROWS = 12
_BLOCKS = 12
_BATCH = 4


@dataclass(frozen=True)
class Cut:
    """The layers of a model that a student loses, and the ways of cutting that were compared."""

    dropped: tuple[int, ...]
    parameters: int
    """Of what is left."""
    losses: tuple[float, ...]
    """Of each way that was compared, nats a token on some of the rows, the lowest first; none where none was."""


@dataclass(frozen=True)
class Looked:
    """What was seen of the models, in lines for a person, and how the student is cut."""

    lines: tuple[str, ...]
    cut: Cut | None = None


def look(
    teacher: Reference, student: Reference, found: Models, prompt: PromptSettings, rows: Sequence[Row], keep: int | None
) -> Looked:
    """Read some of the rows with both models; `keep` is the number of layers that a cut student has.

    Raises: SettingsError when the student's model has not more layers than that; ModelError when one cannot be loaded.
    """
    from distill.conversion.cut import cut
    from distill.evaluation.first_look import look_at
    from distill.models.loading import load_model
    from distill.text.tokenizers import load_tokenizer

    if keep is not None:
        require_fewer(keep, found.student_layers)
    # A cut model is made beside its origin.
    largest, copies = max(found.teacher_parameters, found.student_parameters), 1 if keep is None else 2
    if (reason := obstacle(largest, copies)) is not None:
        line = f"look      not taken, because {reason}; the stage `base` looks before it trains"
        return Looked((line,), None if keep is None else _middle(found, keep))
    # From all over the rows, which may be sorted.
    drawn = [rows[place] for place in permutation(len(rows), 0, "rows looked at")[:_ROWS]]
    examples = as_examples(load_tokenizer(student), prompt, drawn)
    print("Reading some rows with the models …", file=sys.stderr, flush=True)
    model = load_model(teacher)
    first = look_at(model, examples, (), _BATCH)
    if student != teacher:
        del model  # there may be no memory for both
        model = load_model(student)
    lines, chosen = [_line("teacher", first)], None
    if keep is not None:
        chosen = choose_cut(model, keep, examples)
        kept = [index for index in range(found.student_layers) if index not in chosen.dropped]
        model = cut(model, kept)
    if keep is not None or student != teacher:
        # A cut student is healed by its training, so it is not held against its teacher.
        lines.append(_line("student", look_at(model, examples, (), _BATCH), None if keep is not None else first))
    return Looked(tuple(lines), chosen)


def obstacle(parameters: int, copies: int = 1) -> str | None:
    """Why a model of so many parameters cannot be read here, `copies` at once; None where it can."""
    if parameters > LARGEST_READ:
        return f"the larger model has more than {LARGEST_READ / 1e9:g}B parameters"
    needed, free = copies * parameters * _NUMBER, read_machine(Path()).available
    return f"it needs {gibibytes(needed)} of memory and {gibibytes(free)} are free" if needed > free else None


def as_examples(tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, rows: Sequence[Row]) -> list[Example]:
    """Rows as training would read them; those whose prompt is over the limit are left out."""
    from distill.prompting.prompts import encode, render
    from distill.text.examples import Example

    texts = [render(prompt, row.instruction, row.input) for row in rows]
    references = [row.references[0] for row in rows]
    pairs = encode(tokenizer, prompt, texts, references)
    return [
        Example(place, prompt_ids, response_ids, reference)
        for place, ((prompt_ids, response_ids), reference) in enumerate(zip(pairs, references, strict=True))
        if len(prompt_ids) <= prompt.max_prompt_tokens
    ]


def choose_cut(model: PreTrainedModel, keep: int, examples: Sequence[Example]) -> Cut:
    """The best way found to leave `keep` layers: the lowest loss on some of the user's rows, without any training.

    Compared are blocks of neighbouring layers that are left out, spread over the depth, and layers at equal distances.
    """
    from distill.conversion.cut import cut, layer_count
    from distill.models.settings import spans

    count, rows = layer_count(model), examples[:_CUT_ROWS]
    found = []
    for dropped in ways(count, keep):
        short = cut(model, [index for index in range(count) if index not in dropped])
        found.append((_loss(short, rows), dropped, sum(each.numel() for each in short.parameters())))
        print(f"without the layers {spans(dropped)}: {found[-1][0]:.2f} nats a token", file=sys.stderr, flush=True)
    found.sort()
    return Cut(found[0][1], found[0][2], tuple(loss for loss, *_ in found))


def _middle(found: Models, keep: int) -> Cut:
    """The middle block left out, of a model that cannot be looked at here."""
    start, lost = keep // 2, found.student_layers - keep
    return Cut(tuple(range(start, start + lost)), round(found.student_parameters * keep / found.student_layers), ())


def ways(count: int, keep: int) -> list[tuple[int, ...]]:
    """Layers to leave out, for each way that is compared; the first and the last layer stay if two may."""
    dropped = count - keep
    edge = 1 if keep >= 2 else 0  # the layers beside the embedding and the head are the ones that are least like others
    last = keep - edge
    steps = max(1, min(_BLOCKS - 1, last - edge))
    starts = sorted({edge + round(step * (last - edge) / steps) for step in range(steps + 1)})
    blocks = [tuple(range(start, start + dropped)) for start in starts]
    even = {round(place * (count - 1) / max(1, keep - 1)) for place in range(keep)}
    return [*blocks, *({tuple(index for index in range(count) if index not in even)} - set(blocks))]


def require_fewer(keep: int, count: int) -> None:
    """Refuse a number of layers that is no cut. Raises: SettingsError."""
    if not 1 <= keep < count:
        raise SettingsError(
            f"--student-layers {keep}: the model has {count} layers; give a number from 1 to {count - 1}, e.g. two "
            f"thirds: {max(1, 2 * count // 3)}"
        )


def _line(role: str, seen: FirstLook, teacher: FirstLook | None = None) -> str:
    doubt = seen.doubt(None if teacher is None else teacher.loss)
    return f"look      {role}: {seen.told()}" if doubt is None else f"warning   {role}: {doubt}"


def _loss(model: PreTrainedModel, examples: Sequence[Example]) -> float:
    from distill.generation.validation import reference_loss

    return reference_loss(model, examples, _BATCH)
