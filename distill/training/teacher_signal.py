"""The teacher's distribution in supervised training: from hidden states that are kept, or computed each time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.parts import backbone, head, precise
from distill.parallel.processes import ALONE, Processes
from distill.runs.out_of_memory import Fitting
from distill.text.batches import IGNORED, collate
from distill.text.examples import Example
from distill.training.batches import FILLER


class TeacherSignal:
    """The teacher's distribution at response tokens, from hidden states kept once or computed each time."""

    def __init__(
        self,
        teacher: PreTrainedModel,
        examples: Sequence[Example],
        batch: int,
        keep: bool,
        processes: Processes = ALONE,
    ) -> None:
        """Run the teacher over all examples now when `keep`; its hidden states stay on the CPU.

        Each of several processes runs it over its share and then keeps what all have found.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.kept: dict[int, Tensor] = {}
        if keep:
            found: list[tuple[int, Tensor]] = []
            ordered = processes.share(sorted(examples, key=lambda e: len(e.prompt_ids) + len(e.response_ids)))
            fitting = Fitting(batch, "the teacher's batch")
            while len(found) < len(ordered):
                # What was found tells where to go on: the batch may have been halved on the way.
                found += fitting.run(partial(self._pieces, ordered[len(found) :]))
            self.kept = dict(processes.joined(found))
            # No tokens, but the width and precision of the others: a filler adds nothing to the concatenation.
            self.kept[FILLER] = next(iter(self.kept.values()))[:0]

    def _pieces(self, examples: Sequence[Example], batch: int) -> list[tuple[int, Tensor]]:
        """The rows of the first `batch` examples, and their hidden states."""
        group = examples[:batch]
        inputs = {k: v.to(self.teacher.device) for k, v in collate(group).items()}
        # Marked tokens come row after row, so that the responses' lengths cut them apart.
        pieces = self._hidden(inputs).split([len(e.response_ids) for e in group])
        return [(e.index, piece.cpu()) for e, piece in zip(group, pieces, strict=True)]

    def logits(self, inputs: dict[str, Tensor], vocabulary: int) -> Tensor:
        """Teacher logits [N, vocabulary] at the tokens that `labels` marks."""
        with torch.no_grad():
            if self.kept:
                # States are kept, not logits: their width is a small part of the vocabulary's.
                hidden = torch.cat([self.kept[row] for row in inputs["rows"].tolist()]).to(self.teacher.device)
            else:
                hidden = self._hidden(inputs)
            return precise(head(self.teacher)(hidden)[:, :vocabulary])

    @torch.no_grad()
    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        states = backbone(self.teacher)(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
        # A position predicts the label after it: the last state and the first label have no partner.
        kept: Tensor = states[:, :-1][inputs["labels"][:, 1:] != IGNORED]
        return kept
