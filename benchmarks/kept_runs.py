"""The finished runs of a study, one line each in a file of the repository, and the search for their learning rates."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.toy_runs import Prompts, ToyOutcome, ToyRuns
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.project.files import read_jsonl, write_text

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
FIRST = (2e-3, 4e-3)
"""The rates that are tried first."""
CLOSE = 1.5
"""Validation Rouge-L; rates closer than this on one seed are compared on two. Seeds of one arm differ by 0.8."""

Job = tuple[str, float, int]
"""A run: arm, learning rate, seed."""


@dataclass(frozen=True)
class Arm:
    """MiniLLM with some settings changed."""

    settings: dict[str, Any] = field(default_factory=dict)
    start: str = "init"
    """The checkpoint the student starts from; `base`, which has seen no instruction, is the weak one."""
    against: str = "default"
    """The arm it is compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: Prompts = "all"
    rates: tuple[float, ...] = RATES
    """The rates that may be tried."""


@cache
def toy() -> ToyRuns:
    """The inputs of runs, read once in each process."""
    return ToyRuns()


def place(start: str) -> Path:
    """The folder of a start: one of the student's own checkpoints, or one that a study made."""
    own = Path("runs/tiny") / start
    return own if own.exists() else Path(".resume/starts") / start


def measure(settings: MiniLLMSettings, start: str, seed: int, prompts: Prompts) -> ToyOutcome:
    """One run, in this process."""
    return toy().run(settings, place(start), seed, prompts)


def digest(settings: MiniLLMSettings, start: str, prompts: Prompts) -> str:
    """A short hash of all settings of a run, the preset's and the unchanged ones included."""
    text = json.dumps([settings.model_dump(mode="json"), start, prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Runs:
    """The finished runs; a line of the file is one of them, with its arm, its settings and its outcome.

    A run is found by its inputs, not by its name: `recipe` is a hash of all its settings, `inputs` of the data and the
    models. A run with changed settings is made anew; the old line stays.
    """

    def __init__(
        self,
        path: Path,
        arms: Mapping[str, Arm],
        section: dict[str, Any],
        inputs: str | None = None,
        others: Sequence[Path] = (),
    ) -> None:
        """Read `path`, which new runs are added to, and `others`, to which none is added.

        `section` is what arms change; `inputs` None takes those of the newest run.
        """
        self.path, self.arms, self.section = path, arms, section
        rows = [row for file in (*others, path) if file.is_file() for row in read_jsonl(file)]
        self.inputs = inputs or (rows[-1]["inputs"] if rows else "")
        self.outcomes = {
            (row["recipe"], row["seed"]): ToyOutcome(**row["outcome"]) for row in rows if row["inputs"] == self.inputs
        }

    def settings(self, name: str, rate: float) -> MiniLLMSettings:
        """All settings of an arm at a learning rate."""
        return MiniLLMSettings.model_validate({**self.section, **self.arms[name].settings, "learning_rate": rate})

    def find(self, name: str, rate: float, seed: int) -> ToyOutcome | None:
        """A finished run of arm `name`."""
        arm = self.arms[name]
        return self.outcomes.get((digest(self.settings(name, rate), arm.start, arm.prompts), seed))

    def keep(self, name: str, rate: float, seed: int, outcome: ToyOutcome) -> None:
        """Add a finished run to the file."""
        arm = self.arms[name]
        recipe = digest(self.settings(name, rate), arm.start, arm.prompts)
        said = {"arm": name, "settings": arm.settings, "start": arm.start, "prompts": arm.prompts}
        row = {**said, "rate": rate, "seed": seed, "recipe": recipe, "inputs": self.inputs, "outcome": asdict(outcome)}
        before = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        write_text(self.path, before + json.dumps(row) + "\n")
        self.outcomes[recipe, seed] = outcome
        print(f"{name} | {rate:g} | {seed}: valid {max(outcome.valid):.1f}, test {outcome.test:.1f}", flush=True)

    def wanted(self, name: str, count: int | None = None) -> list[Job]:
        """The runs to make next; none when the arm is complete, with `count` seeds at most.

        First those that choose its rate, then its further seeds, then the arm it is compared with at the same rate.
        """
        arm = self.arms[name]
        seeds = arm.seeds[:count]
        jobs, rate = self._climb(name, seeds)
        compared = [who for who in dict.fromkeys([name, arm.against]) if who in self.arms]
        seeded = [(who, rate, seed) for who in compared for seed in seeds]
        return jobs or [job for job in seeded if self.find(*job) is None]

    def best_rate(self, name: str) -> float | None:
        """The learning rate with the best validation Rouge-L; None before it is known."""
        jobs, rate = self._climb(name, self.arms[name].seeds)
        return None if jobs else rate

    def _climb(self, name: str, seeds: Sequence[int]) -> tuple[list[Job], float]:
        """The runs that are still needed to choose a rate, and the choice once there are none.

        Rates are climbed on the first seed until both neighbours of the best are worse. Those within `CLOSE` of it are
        run with the second seed too; the best mean wins, once its own neighbours were tried.
        """
        rates = self.arms[name].rates
        found = self._values(name, seeds[0])
        first = set(FIRST) & set(rates) or set(rates[:1])
        if not first <= set(found):
            return [(name, rate, seeds[0]) for rate in sorted(first - set(found))], rates[0]
        second = self._values(name, seeds[1]) if len(seeds) > 1 else {}
        top = max(found, key=lambda rate: found[rate])
        close = [rate for rate in found if found[rate] > found[top] - CLOSE]
        best = max(close, key=lambda rate: mean([found[rate], second.get(rate, found[rate])]))
        for jobs in (
            [(name, rate, seeds[0]) for rate in _neighbours(rates, top) if rate not in found],
            [(name, rate, seeds[1]) for rate in close if len(close) > 1 < len(seeds) and rate not in second],
            [(name, rate, seeds[0]) for rate in _neighbours(rates, best) if rate not in found],
        ):
            if jobs:
                return jobs, best
        return [], best

    def _values(self, name: str, seed: int) -> dict[float, float]:
        """Validation Rouge-L of the finished runs with a seed, by rate."""
        return {r: max(o.valid) for r in self.arms[name].rates if (o := self.find(name, r, seed)) is not None}

    def chosen(self, name: str) -> dict[int, ToyOutcome]:
        """The runs at the chosen rate, by seed; empty before it is chosen."""
        rate = self.best_rate(name)
        return {} if rate is None else self._at(name, rate)

    def _at(self, name: str, rate: float) -> dict[int, ToyOutcome]:
        found = {seed: self.find(name, rate, seed) for seed in self.arms[name].seeds}
        return {seed: outcome for seed, outcome in found.items() if outcome is not None}

    def difference(self, name: str, quantity: str, same_rate: bool = False) -> str:
        """An arm's mean minus that of the one it is compared with, ± standard error, paired by the seeds both have.

        Each has its own rate, or both have the arm's.
        """
        other, rate = self.arms[name].against, self.best_rate(name)
        if other == name or other not in self.arms or rate is None:
            return "–"
        ours = self.chosen(name)
        theirs = self._at(other, rate) if same_rate else self.chosen(other)
        pairs = [value_of(ours[seed], quantity) - value_of(theirs[seed], quantity) for seed in ours if seed in theirs]
        return paired(pairs, digits=2 if "kl" in quantity else 1)


def _neighbours(rates: Sequence[float], rate: float) -> Sequence[float]:
    place = rates.index(rate)
    return rates[max(0, place - 1) : place + 2]


def value_of(outcome: ToyOutcome, quantity: str) -> float:
    """A number of an outcome; of `valid` the best."""
    value = getattr(outcome, quantity)
    return max(value) if quantity == "valid" else float(value)


def paired(differences: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard error; a dash for fewer than two."""
    if len(differences) < 2:
        return "–"
    return f"{mean(differences):+.{digits}f} ± {stdev(differences) / math.sqrt(len(differences)):.{digits}f}"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation; of one value alone no deviation."""
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle
