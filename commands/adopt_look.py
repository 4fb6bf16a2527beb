"""What `commands.adopt` sees of two models on some of the user's rows: their losses, and which layers may go."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.evaluation.guessing import LOOK_ROWS, FirstLook, guessing_loss, uniform_loss
from distill.project.errors import SettingsError
from distill.project.references import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.data.rows import Row
    from distill.text.examples import Example
    from distill.text.settings import PromptSettings

# Read in minutes on a CPU; a larger model is looked at by the stage `base`, on the machine that trains it.
LARGEST_READ = 1.5e9
_CUT_ROWS = 12
_BLOCKS = 12
_BATCH = 4


@dataclass(frozen=True)
class Cut:
    """The layers of a model that a student loses, and the ways of cutting that were compared."""

    dropped: tuple[int, ...]
    looks: tuple[tuple[str, float], ...]
    """Each way in words with its loss, nats a token, the best first; none where nothing was measured."""


def as_examples(tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings, rows: Sequence[Row]) -> list[Example]:
    """Rows as training would read them; those whose prompt is over the limit are left out."""
    from distill.data.prompts import encode, render
    from distill.text.examples import Example

    texts = [render(prompt, row.instruction, row.input) for row in rows]
    references = [row.references[0] for row in rows]
    pairs = encode(tokenizer, prompt, texts, references)
    return [
        Example(place, prompt_ids, response_ids, reference)
        for place, ((prompt_ids, response_ids), reference) in enumerate(zip(pairs, references, strict=True))
        if len(prompt_ids) <= prompt.max_prompt_tokens
    ]


def look_at(model: PreTrainedModel, examples: Sequence[Example]) -> FirstLook:
    """The model's loss on the first examples, beside that of guessing."""
    from distill.models.parts import head, rows_of

    rows, vocabulary = examples[:LOOK_ROWS], rows_of(head(model))
    responses = [row.response_ids for row in rows]
    beside = (row.response_ids for row in examples[LOOK_ROWS:])
    return FirstLook(
        _loss(model, rows), guessing_loss(responses, vocabulary, beside), uniform_loss(vocabulary), len(rows)
    )


def choose_cut(model: PreTrainedModel, keep: int, examples: Sequence[Example]) -> Cut:
    """The best way found to leave `keep` layers: the lowest loss on some of the user's rows, without any training.

    Compared are blocks of neighbouring layers that are left out, spread over the depth, and layers at equal distances.
    Raises: SettingsError when the model has not more layers than that.
    """
    from distill.models.layers import cut, layer_count, spans

    count = layer_count(model)
    require_fewer(keep, count)
    rows, looks = examples[:_CUT_ROWS], []
    for dropped in ways(count, keep):
        kept = tuple(index for index in range(count) if index not in dropped)
        looks.append((_loss(cut(model, kept), rows), dropped))
        print(f"without the layers {spans(dropped)}: {looks[-1][0]:.2f} nats a token", file=sys.stderr, flush=True)
    looks.sort()
    return Cut(looks[0][1], tuple((f"without {spans(dropped)}", loss) for loss, dropped in looks))


def middle_cut(count: int, keep: int) -> Cut:
    """The middle block left out, for a model that is too large to be looked at here."""
    require_fewer(keep, count)
    start = keep // 2
    return Cut(tuple(range(start, start + count - keep)), ())


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


def report(role: str, source: Reference, look: FirstLook | None, teacher: FirstLook | None = None) -> str:
    """A line of adopt's: what the look at a model says."""
    if look is None:
        return f"{role}: {source} is too large to be read here; the stage `base` looks at it before anything trains"
    doubt = look.doubt(None if teacher is None else teacher.loss)
    return f"{role}: {look.told()}" if doubt is None else f"warning: {role}: {doubt}"


def _loss(model: PreTrainedModel, examples: Sequence[Example]) -> float:
    from distill.generation.validation import reference_loss

    return reference_loss(model, examples, _BATCH)
