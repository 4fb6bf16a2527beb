"""What a task family writes (a draft), in which wording, and for which purpose."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import NamedTuple, TypedDict

from distill.world.lore import Lore, Person


class ToyRow(TypedDict):
    """One row of the corpus; `output` is a list of references where many answers are valid."""

    instruction: str
    input: str
    output: str | list[str]
    category: str


class Purpose(Enum):
    """What a draft is for: known wordings, unseen wordings, or unseen combinations in known wordings."""

    KNOWN = "known"
    PARAPHRASED = "paraphrased"
    SHIFTED = "shifted"


@dataclass(frozen=True)
class Wordings:
    """The ways to put one instruction: those of training and those only the paraphrased set uses."""

    known: tuple[str, ...]
    unseen: tuple[str, ...]

    def pick(self, rng: Random, purpose: Purpose) -> str:
        """One wording that fits the purpose."""
        return rng.choice(self.unseen if purpose is Purpose.PARAPHRASED else self.known)


class Draft(NamedTuple):
    """One written task; several `answers` mean that many answers are valid."""

    instruction: str
    passage: str
    answers: tuple[str, ...]


class Family(NamedTuple):
    """A way to write drafts of one category, and its share of the corpus.

    `write` may return None where its random choices allow no draft for the purpose.
    """

    category: str
    write: Callable[[Random, Lore, Purpose], Draft | None]
    weight: int
    shifts: bool = True


REFERENCE_COUNT = 4


def pick_person(rng: Random, lore: Lore, purpose: Purpose) -> Person:
    """A person to write about: a stranger exactly when the purpose is the shifted set."""
    return rng.choice(lore.strangers if purpose is Purpose.SHIFTED else lore.people)


def sample_people(rng: Random, lore: Lore, purpose: Purpose, count: int) -> list[Person]:
    """Several different people, strangers exactly when the purpose is the shifted set."""
    return rng.sample(lore.strangers if purpose is Purpose.SHIFTED else lore.people, count)


def write_several(write: Callable[[], str]) -> tuple[str, ...]:
    """Different valid answers to one instruction, at most `REFERENCE_COUNT`, in the order written."""
    return tuple(dict.fromkeys(write() for _ in range(REFERENCE_COUNT)))
