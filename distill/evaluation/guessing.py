"""What a model is worth before it is trusted: its loss on some rows beside that of guessing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.project.files import read_json

LOOK_ROWS = 32
"""Rows that a look reads: enough to tell babble from text, seconds for a small model."""
FREQUENCY_ROWS = 2000
"""Training rows that the frequencies of tokens are counted on."""


def uniform_loss(vocabulary: int) -> float:
    """The loss of one who takes every token for equally probable, ln V, nats a token."""
    return math.log(vocabulary)


def guessing_loss(responses: Sequence[Sequence[int]], vocabulary: int, beside: Iterable[Sequence[int]] = ()) -> float:
    """The loss of one who knows how frequent each token is and reads no context, nats a token.

    Each response is guessed from the frequencies in all the others and in those `beside`, with Witten and Bell's
    share for tokens not seen there: with T kinds among N tokens, p(w) = (count(w) + T / V) / (N + T). A single response
    leaves ln V.

    Raises: ValueError when there is no token.
    """
    tokens = sum(map(len, responses))
    if not tokens:
        raise ValueError("no token to guess")
    whole = Counter(token for response in (*responses, *beside) for token in response)
    total, loss = whole.total(), 0.0
    for response in responses:
        own = Counter(response)
        seen = total - len(response)
        # Kinds that stand in no other response are not known when this one is guessed.
        kinds = len(whole) - sum(whole[token] == count for token, count in own.items())
        for token, count in own.items():
            share = (whole[token] - count + kinds / vocabulary) / (seen + kinds) if seen else 1 / vocabulary
            loss -= count * math.log(share)
    return min(loss / tokens, uniform_loss(vocabulary))


@dataclass(frozen=True)
class FirstLook:
    """Loss of a model that nobody trained here on some of the user's rows, nats a token."""

    loss: float
    guessing: float
    """That of guessing by the frequencies of tokens."""
    uniform: float
    """ln V."""
    rows: int

    def told(self) -> str:
        """What was seen, in words."""
        return (
            f"{self.loss:.2f} nats a token on {self.rows} rows (guessing by frequency {self.guessing:.2f}, ln V "
            f"{self.uniform:.2f})"
        )

    def doubt(self, teacher: float | None = None) -> str | None:
        """Why the model is not to be trusted, with the way on; None for a sound one. `teacher`: its teacher's loss."""
        # Also for a loss that is no number.
        if not self.loss < self.uniform:
            return (
                f"worse than guessing at random: {self.told()}; its weights do not fit its configuration or tokenizer, "
                "or layers were cut that it cannot do without: compare it with its origin, or cut other layers "
                "(docs/models.md)"
            )
        if not self.loss < self.guessing:
            return (
                f"no better than guessing from the frequencies of tokens: {self.told()}; it writes babble until it is "
                "trained for long: give it more `pretrain`, cut other layers, or take another model (docs/models.md)"
            )
        if teacher is not None and self.loss < teacher:
            return (
                f"better than its teacher, which has {teacher:.2f}: {self.told()}; a student gains little from a "
                "teacher that knows less: fine-tune the teacher on these rows, or exchange the two"
            )
        return None


def stored_look(who: str, root: Path) -> FirstLook | None:
    """What the stage `base` of a family or student saw; None where it took no look, or was not run."""
    record = root / "runs" / who / "base.run.json"
    seen = read_json(record).get("first_look") if record.is_file() else None
    return FirstLook(**seen) if isinstance(seen, dict) else None
