"""What became of every metric between two states of the project, and whether that is more than noise.

The noise is that of prompts and sampling seeds, which the results' own intervals speak of. The interval of a
difference follows from the two intervals (Zou and Donner 2008, doi:10.1002/sim.3095), as if they were independent:
somewhat wide, because both states answer the same prompts. Training again with another seed is noise too, and is
not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any, Literal

from distill.scoring.directions import direction

Verdict = Literal["worse", "better", "changed", "within noise", "too few prompts", "new", "gone"]
VERDICTS: tuple[Verdict, ...] = ("worse", "better", "changed", "too few prompts", "new", "gone", "within noise")
"""In the order that a reader wants them."""

# 95 % of a normal distribution, where a metric tells its standard deviation and no interval.
_DEVIATIONS = 1.96


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval, where the results have one."""

    mean: float
    interval: tuple[float, float] | None = None
    few: bool = False
    """Measured on too few prompts for the interval to be believed."""
    words: str = ""
    """Words of Rouge-L where they are not the paper's: other words make it another metric."""

    def __str__(self) -> str:
        spread = "" if self.interval is None else f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
        return f"{self.mean:.4g}{spread}"


@dataclass(frozen=True)
class Change:
    """One metric before and after."""

    name: str
    """File and keys: `tiny.minillm.toy_id.rouge_l`."""
    old: Value | None
    new: Value | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of new minus old; None where one of the two has none."""
        if self.old is None or self.new is None or self.old.interval is None or self.new.interval is None:
            return None
        difference = self.new.mean - self.old.mean
        down = hypot(self.new.mean - self.new.interval[0], self.old.interval[1] - self.old.mean)
        up = hypot(self.new.interval[1] - self.new.mean, self.old.mean - self.old.interval[0])
        return difference - down, difference + up

    @property
    def verdict(self) -> Verdict:
        """`changed` where neither direction is better, nothing says how much is noise, or Rouge-L has other words."""
        if self.old is None or self.new is None:
            return "new" if self.old is None else "gone"
        if self.interval is None or self.old.words != self.new.words:
            return "changed"
        if self.old.few or self.new.few:
            return "too few prompts"
        low, high = self.interval
        if low <= 0 <= high:
            return "within noise"
        wanted = direction(self.name)
        if wanted == 0:
            return "changed"
        return "better" if (low > 0) == (wanted > 0) else "worse"


def values(content: Any, name: str) -> Iterator[tuple[str, Value]]:
    """The metrics of a results file by dotted name; an entry with `mean` is one metric."""
    if not isinstance(content, Mapping):
        return
    if isinstance(content.get("mean"), int | float):
        few, words = "prompts" in content, str(content.get("words", ""))
        yield name, Value(float(content["mean"]), _interval(content), few, words)
        return
    for key, inner in content.items():
        yield from values(inner, f"{name}.{key}")


def _interval(content: Mapping[str, Any]) -> tuple[float, float] | None:
    match content:  # of a commit of any age, so whatever it holds
        case {"ci95": [int() | float() as low, int() | float() as high]}:
            return float(low), float(high)
        case {"mean": mean, "std": int() | float() as deviation} if deviation and "ci95" not in content:
            return mean - _DEVIATIONS * deviation, mean + _DEVIATIONS * deviation
    return None


def compare(old: Any, new: Any, name: str, moved: set[str]) -> list[Change]:
    """The metrics of one results file that differ, `moved` being their names as `dvc metrics diff` flattens them."""
    before, after = dict(values(old, name)), dict(values(new, name))
    names = [*after, *(each for each in before if each not in after)]
    # DVC's names lack the file and go down to the number itself
    return [
        Change(each, before.get(each), after.get(each))
        for each in names
        if f"{each.removeprefix(name + '.')}.mean" in moved
    ]
