"""The paper's ablations on the toy profile (its Table 4 and Figure 16), and the differences to the authors' code.

Each arm is MiniLLM with a few settings changed and half the shipped number of steps. Its learning rate is chosen by
validation Rouge-L on seed 0, then it is trained with further rollout seeds from the same teacher and start.

    python -m benchmarks.ablations [--arms NAME ...] [--seeds 0 1 2]        writes docs/ablations.md
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.workspace import ROOT, curve, run, toy_run_place
from distill.project.files import read_json, write_json, write_text

RATES = (1e-3, 2e-3, 4e-3)
STEPS = {"max_steps": 240, "evaluate_every": 48}
REPORTED = ("valid", "tokens", "repeated", "reverse_kl")
HEAD = "| arm | lr | test Rouge-L | valid | answer tokens | repeated 4-grams % | reverse KL |"
UNWHITENED = {"whiten": "none", "discount": 1.0, "rewards": "sampled", "return_from": "current"}
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "without length norm": {"length_norm": False},
    "without teacher mixing": {"teacher_mix_alpha": 0.0},
    "without single step": {"single_step": False, "rewards": "sampled"},
    "without policy gradient": {"policy_gradient": False},
    "with L_PT": {"lm_coef": 0.1},
    "alpha 0.1": {"teacher_mix_alpha": 0.1},
    "alpha 0.4": {"teacher_mix_alpha": 0.4},
    "alpha 0.7": {"teacher_mix_alpha": 0.7},
    "sampled rewards": {"rewards": "sampled"},
    "sampled, closed-form baseline": {"rewards": "sampled", "baseline": "closed_form"},
    "whiten grid": {"whiten": "grid"},
    "preset paper": {"preset": "paper"},
    "preset reference": {"preset": "reference"},
    "unwhitened": UNWHITENED,
    "unwhitened, without length norm": {**UNWHITENED, "length_norm": False},
    "unwhitened, without single step": {**UNWHITENED, "single_step": False},
    "unwhitened, without teacher mixing": {**UNWHITENED, "teacher_mix_alpha": 0.0},
}


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    valid: float
    test: float
    tokens: float
    repeated: float
    reverse_kl: float


def measure(arm: str, rate: float, seed: int) -> Outcome:
    """Train one arm and answer the in-distribution test set."""
    with tempfile.TemporaryDirectory() as name:
        settings = {**STEPS, **ARMS[arm], "learning_rate": rate}
        place = toy_run_place(Path(name), "minillm", settings, seed)
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


def row(arm: str, rate: float, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    tests = [outcome.test for outcome in outcomes]
    valid, tokens, repeated, kl = (mean(getattr(o, n) for o in outcomes) for n in REPORTED)
    std = stdev(tests) if len(tests) > 1 else 0.0
    rest = [f"{valid:.1f}", f"{tokens:.1f}", f"{repeated:.1f}", f"{kl:.2f}"]
    return f"| {' | '.join([arm, f'{rate:g}', f'{mean(tests):.1f} ± {std:.1f}', *rest])} |"


def main() -> None:
    """Run the arms and write the table; finished arms are kept beside it and not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    store = ROOT / ".resume/ablations.json"
    rows: dict[str, str] = read_json(store) if store.is_file() else {}
    with ThreadPoolExecutor(2) as pool:
        for arm in arguments.arms:
            if arm in rows:
                continue
            first = list(pool.map(lambda rate, arm=arm: measure(arm, rate, arguments.seeds[0]), RATES))
            best = max(range(len(RATES)), key=lambda i: first[i].valid)
            rest = pool.map(lambda seed, arm=arm, best=best: measure(arm, RATES[best], seed), arguments.seeds[1:])
            rows[arm] = row(arm, RATES[best], [first[best], *rest])
            print(rows[arm], flush=True)
            write_json(store, rows)
    table = "\n".join([HEAD, "|---" * 7 + "|", *(rows[arm] for arm in ARMS if arm in rows)])
    write_text(ROOT / "docs/ablations_table.md", f"{table}\n")


if __name__ == "__main__":
    main()
