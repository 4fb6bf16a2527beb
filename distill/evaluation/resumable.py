"""Sampling many responses so that a kill costs one batch: what is finished is not sampled again.

Each batch is a JSONL file of its own in `.resume/<stage>/<fingerprint>/`, written whole or not at all. Draws are keyed
by the example, so responses of two sittings are those of one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

from transformers import PreTrainedModel

from distill.generation.decode import sample_responses
from distill.generation.settings import SamplingSettings
from distill.project.files import read_jsonl, write_jsonl
from distill.runs.resume import RESUME_FOLDER, require_own


class Sampled(NamedTuple):
    """A response as it is stored."""

    ids: list[int]
    """Token ids, the end-of-sequence token included unless `truncated`."""
    truncated: bool


class FinishedResponses:
    """The responses an unfinished stage has already sampled, by their place among all of the stage's prompts."""

    def __init__(self, stage: str, fingerprint: str) -> None:
        """Read what an earlier sitting left; the fingerprint covers everything the responses follow from.

        Raises: DataError when another user could have written it.
        """
        self.folder = RESUME_FOLDER / stage / fingerprint
        self.found: dict[int, Sampled] = {}
        if self.folder.is_dir():
            require_own(self.folder)
        for path in sorted(self.folder.glob("*.jsonl")):
            for row in read_jsonl(path):
                self.found[row["place"]] = Sampled(row["ids"], row["truncated"])

    def add(self, batch: dict[int, Sampled]) -> None:
        """Store one finished batch."""
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        rows = [{"place": place, **response._asdict()} for place, response in batch.items()]
        write_jsonl(self.folder / f"{rows[0]['place']:08d}.jsonl", rows)
        self.found.update(batch)

    def clear(self) -> None:
        """Forget everything, after the stage's output is safely written."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def sample_remaining(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    finished: FinishedResponses,
    *,
    max_new_tokens: int,
    eos_id: int,
    batch_size: int,
    sampling: SamplingSettings | None = None,
    vocabulary: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Sampled]:
    """As `sample_responses`, but leaving out what is `finished`; all responses, in the order of the prompts."""
    # The decode would sort by length too; here it must, so that a batch holds the same prompts in every sitting.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        places = [place for place in order[start : start + batch_size] if place not in finished.found]
        if not places:
            continue
        responses = sample_responses(
            model,
            [prompts[place] for place in places],
            [keys[place] for place in places],
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            batch_size=batch_size,
            sampling=sampling,
            vocabulary=vocabulary,
        )
        finished.add({p: Sampled(r.ids, r.truncated) for p, r in zip(places, responses, strict=True)})
        if on_batch is not None:
            on_batch(len(places))
    return [finished.found[place] for place in range(len(prompts))]
