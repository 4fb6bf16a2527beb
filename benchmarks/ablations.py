"""The paper's ablations on the toy profile (its Table 4 and Figure 16), and the differences to the authors' code.

Each arm is MiniLLM with a few settings changed and half the shipped number of steps. Its learning rate is chosen by
validation Rouge-L on the first seed, from a grid that is climbed until both neighbours of the best are worse; then it
is trained with further rollout seeds from the same teacher and start.

    make ablations, or python -m benchmarks.ablations [--arms NAME ...] [--workers 2]

It writes docs/ablations_table.md (`--arms` without a name: of what is there, and runs nothing); every finished run is
kept in .resume/ablations.json and not made again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from threading import Lock
from typing import Any

from benchmarks.workspace import ROOT, curve, run, toy_run_place
from distill.project.files import read_json, write_json, write_text

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
STEPS = {"max_steps": 240, "evaluate_every": 48}
REPORTED = ("valid", "tokens", "repeated", "reverse_kl")
HEAD = "| arm | runs | lr | test Rouge-L | valid | answer tokens | repeated 4-grams % | reverse KL | minus default |"


@dataclass(frozen=True)
class Arm:
    """MiniLLM with some settings changed."""

    settings: dict[str, Any] = field(default_factory=dict)
    start: str = "init"
    """The checkpoint the student starts from; `base`, which has seen no instruction, is the weak one."""
    seeds: tuple[int, ...] = (0, 1, 2)


UNWHITENED = {"whiten": "none", "discount": 1.0, "rewards": "sampled", "return_from": "current"}
FIVE = (0, 1, 2, 3, 4)
DEFAULT = "default"
ARMS: dict[str, Arm] = {
    DEFAULT: Arm(seeds=FIVE),
    "sampled rewards": Arm({"rewards": "sampled"}, seeds=FIVE),
    "sampled rewards, closed-form baseline": Arm({"rewards": "sampled", "baseline": "closed_form"}, seeds=FIVE),
    "unwhitened": Arm(UNWHITENED),
    "unwhitened, without length norm": Arm({**UNWHITENED, "length_norm": False}),
    "unwhitened, without single step": Arm({**UNWHITENED, "single_step": False}),
    "without single step": Arm({"single_step": False, "rewards": "sampled"}),
    "without length norm": Arm({"length_norm": False}),
    "without teacher mixing (alpha 0)": Arm({"teacher_mix_alpha": 0.0}),
    "without policy gradient": Arm({"policy_gradient": False}),
    "with L_PT": Arm({"lm_coef": 0.1}),
    "preset paper": Arm({"preset": "paper"}),
    "preset reference": Arm({"preset": "reference"}),
    "weak start": Arm(start="base"),
    "weak start, without teacher mixing": Arm({"teacher_mix_alpha": 0.0}, start="base"),
    "weak start, without policy gradient": Arm({"policy_gradient": False}, start="base"),
    "whitened over the padded grid": Arm({"whiten": "grid"}),
    "alpha 0.1": Arm({"teacher_mix_alpha": 0.1}),
    "alpha 0.4": Arm({"teacher_mix_alpha": 0.4}),
    "alpha 0.7": Arm({"teacher_mix_alpha": 0.7}),
    "alpha 1": Arm({"teacher_mix_alpha": 1.0}),
    "unwhitened, without teacher mixing": Arm({**UNWHITENED, "teacher_mix_alpha": 0.0}),
}


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    valid: float
    test: float
    tokens: float
    repeated: float
    reverse_kl: float


def measure(arm: Arm, rate: float, seed: int) -> Outcome:
    """Train one arm and answer the in-distribution test set."""
    with tempfile.TemporaryDirectory() as name:
        settings = {**arm.settings, **STEPS, "learning_rate": rate}
        place = toy_run_place(Path(name), "minillm", settings, seed, start=arm.start)
        run(place, "stages.minillm", "tiny", "minillm")
        run(place, "stages.respond", "tiny", "minillm", "toy_id")
        run(place, "stages.rouge", "tiny", "minillm", "toy_id")
        score = read_json(place / "scores/tiny/minillm/toy_id.json")
        return Outcome(
            valid=max(curve(place, "minillm", "valid_rouge_l")),
            test=score["rouge_l"]["mean"],
            tokens=score["response_tokens"]["mean"],
            repeated=score.get("repeated_4", {"mean": 0.0})["mean"],
            reverse_kl=curve(place, "minillm", "reverse_kl")[-1],
        )


class Runs:
    """The runs made so far, each kept in a file as soon as it is finished."""

    def __init__(self, path: Path) -> None:
        """Read what `path` holds."""
        self.path = path
        self.lock = Lock()
        kept = read_json(path) if path.is_file() else {}
        self.outcomes = {name: Outcome(**values) for name, values in kept.items()}

    def find(self, name: str, rate: float, seed: int) -> Outcome | None:
        """A finished run of arm `name`."""
        return self.outcomes.get(self._key(name, rate, seed))

    def make(self, name: str, rate: float, seed: int) -> Outcome:
        """A run of arm `name`, made now unless it is there."""
        found = self.find(name, rate, seed)
        if found is None:
            found = measure(ARMS[name], rate, seed)
            with self.lock:
                self.outcomes[self._key(name, rate, seed)] = found
                write_json(self.path, {key: asdict(value) for key, value in self.outcomes.items()})
        return found

    def best_rate(self, name: str) -> float | None:
        """The learning rate with the best validation Rouge-L on the first seed; None while it is not known."""
        tried = self._tried(name)
        return max(tried, key=lambda rate: tried[rate]) if tried and not self.missing_rates(name) else None

    def missing_rates(self, name: str) -> list[float]:
        """What is still to be tried: two rates in the middle of the grid, then the neighbours of the best so far."""
        tried = self._tried(name)
        wanted = set(RATES[2:4])
        if wanted <= set(tried):
            place = RATES.index(max(tried, key=lambda rate: tried[rate]))
            wanted = set(RATES[max(0, place - 1) : place + 2])
        return sorted(wanted - set(tried))

    def _tried(self, name: str) -> dict[float, float]:
        seed = ARMS[name].seeds[0]
        return {rate: found.valid for rate in RATES if (found := self.find(name, rate, seed)) is not None}

    def tests(self, name: str) -> dict[int, float]:
        """Test Rouge-L of the runs with the chosen rate, by seed; empty before it is chosen."""
        rate = self.best_rate(name)
        found = {} if rate is None else {seed: self.find(name, rate, seed) for seed in ARMS[name].seeds}
        return {seed: outcome.test for seed, outcome in found.items() if outcome is not None}

    @staticmethod
    def _key(name: str, rate: float, seed: int) -> str:
        return f"{name} | {rate:g} | {seed}"


def minus_default(name: str, runs: Runs) -> str:
    """Test Rouge-L of an arm minus the default's, over the seeds both have: mean ± its standard error."""
    ours, theirs = runs.tests(name), runs.tests(DEFAULT)
    differences = [] if name == DEFAULT else [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(differences) < 2:
        return "–"
    return f"{mean(differences):+.1f} ± {stdev(differences) / math.sqrt(len(differences)):.1f}"


def row(name: str, runs: Runs) -> str | None:
    """One line of the table, of the runs with the chosen rate; None before it is chosen."""
    rate = runs.best_rate(name)
    if rate is None:
        return None
    outcomes = [found for seed in ARMS[name].seeds if (found := runs.find(name, rate, seed)) is not None]
    tests = [outcome.test for outcome in outcomes]
    valid, tokens, repeated, kl = (mean(getattr(o, n) for o in outcomes) for n in REPORTED)
    std = stdev(tests) if len(tests) > 1 else 0.0
    rest = [f"{valid:.1f}", f"{tokens:.1f}", f"{repeated:.1f}", f"{kl:.2f}", minus_default(name, runs)]
    return f"| {' | '.join([name, str(len(tests)), f'{rate:g}', f'{mean(tests):.1f} ± {std:.1f}', *rest])} |"


def write_table(runs: Runs) -> None:
    """docs/ablations_table.md, of all arms that have a rate."""
    rows = filter(None, (row(name, runs) for name in ARMS))
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|", *rows]
    write_text(ROOT / "docs/ablations_table.md", "\n".join(lines) + "\n")


def main() -> None:
    """Run the arms, in their order, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS), metavar="NAME")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one core")
    arguments = parser.parse_args()
    runs = Runs(ROOT / ".resume/ablations.json")
    with ThreadPoolExecutor(arguments.workers) as pool:
        for name in arguments.arms:
            seeds = ARMS[name].seeds
            while missing := runs.missing_rates(name):
                list(pool.map(lambda rate, name=name: runs.make(name, rate, ARMS[name].seeds[0]), missing))
            rate = runs.best_rate(name)
            assert rate is not None
            list(pool.map(lambda seed, name=name, rate=rate: runs.make(name, rate, seed), seeds[1:]))
            print(row(name, runs), flush=True)
            write_table(runs)
    write_table(runs)


if __name__ == "__main__":
    main()
