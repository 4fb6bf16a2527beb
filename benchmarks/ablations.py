"""The paper's ablations on the toy profile (its Table 4 and Figure 16), and the differences to the authors' code.

Each arm is MiniLLM with a few settings changed and a third of the shipped steps. Its learning rate is chosen by
validation Rouge-L on the first seed, from a grid that is climbed until both neighbours of the best are worse; then it
is trained with further rollout seeds from the same teacher and start.

    make ablations, or python -m benchmarks.ablations [--arms NAME ...] [--workers 2]

It writes docs/ablations_table.md (`--arms` without a name: of the finished runs, and runs nothing). Every finished run
is a line of docs/ablations_runs.jsonl; it is repeated only if its settings, the data or the models changed.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.kept_runs import Arm, Runs, spread, value_of
from benchmarks.study import Study, main
from benchmarks.workspace import ROOT
from distill.project.settings import lookup, read_yaml

KEPT = Path("docs/ablations_runs.jsonl")
STEPS = {"max_steps": 160, "evaluate_every": 40}
HEAD = (
    "| arm | against | runs | lr | test Rouge-L | difference | at one lr | valid Rouge-L | difference | at one lr "
    "| best steps | answer tokens ± over answers | repeated 4-grams % | reverse KL, own answers "
    "| at the last step: valid Rouge-L | answer tokens | reverse KL | collapsed |"
)

UNWHITENED = {"whiten": "none", "discount": 1.0, "rewards": "sampled", "return_from": "current"}
FIVE = (0, 1, 2, 3, 4)
DEFAULT = "default"
ARMS: dict[str, Arm] = {
    DEFAULT: Arm(seeds=FIVE),
    "sampled rewards": Arm({"rewards": "sampled"}, seeds=FIVE),
    "sampled rewards, closed-form baseline": Arm({"rewards": "sampled", "baseline": "closed_form"}, seeds=FIVE),
    "unwhitened": Arm(UNWHITENED),
    "unwhitened, without length norm": Arm({**UNWHITENED, "length_norm": False}, against="unwhitened"),
    "unwhitened, without single step": Arm({**UNWHITENED, "single_step": False}, against="unwhitened"),
    "without single step": Arm({"single_step": False, "rewards": "sampled"}),
    "without length norm": Arm({"length_norm": False}),
    "without teacher mixing (alpha 0)": Arm({"teacher_mix_alpha": 0.0}),
    "without policy gradient": Arm({"policy_gradient": False}),
    "with L_PT": Arm({"lm_coef": 0.1}),
    "preset paper": Arm({"preset": "paper"}),
    "preset reference": Arm({"preset": "reference"}),
    "weak start": Arm(start="base"),
    "weak start, without teacher mixing": Arm({"teacher_mix_alpha": 0.0}, start="base", against="weak start"),
    "weak start, without policy gradient": Arm({"policy_gradient": False}, start="base", against="weak start"),
    "whitened over the padded grid": Arm({"whiten": "grid"}),
    "alpha 0.1": Arm({"teacher_mix_alpha": 0.1}),
    "alpha 0.4": Arm({"teacher_mix_alpha": 0.4}),
    "alpha 0.7": Arm({"teacher_mix_alpha": 0.7}),
    "alpha 1": Arm({"teacher_mix_alpha": 1.0}),
    "unwhitened, without teacher mixing": Arm({**UNWHITENED, "teacher_mix_alpha": 0.0}, against="unwhitened"),
}


def profile_section() -> dict[str, Any]:
    """The recipe that the arms change: the shipped one with fewer steps."""
    path = ROOT / "profiles/toy.yaml"
    return {**lookup(read_yaml(path), "recipe.students.tiny.minillm", path), **STEPS}


def row(name: str, runs: Runs) -> str | None:
    """One line of the table, of the runs with the chosen rate; None before it is chosen."""
    outcomes = list(runs.chosen(name).values())
    if not outcomes:
        return None
    against = runs.arms[name].against
    cells = [name, against if against != name else "–", str(len(outcomes)), f"{runs.best_rate(name):g}"]
    for quantity in ("test", "valid"):
        cells += [spread([value_of(o, quantity) for o in outcomes])]
        cells += [runs.difference(name, quantity), runs.difference(name, quantity, same_rate=True)]
    cells += [", ".join(str(o.best_step) for o in outcomes)]
    cells += [f"{mean(o.tokens for o in outcomes):.1f} ± {mean(o.tokens_std for o in outcomes):.1f}"]
    cells += [f"{mean(o.repeated for o in outcomes):.1f}", spread([o.kl for o in outcomes], 2)]
    cells += [spread([o.valid[-1] for o in outcomes]), f"{mean(o.last_tokens for o in outcomes):.1f}"]
    cells += [spread([o.last_kl for o in outcomes], 2)]
    cells += [str(sum(bool(o.collapse) for o in outcomes))]
    return f"| {' | '.join(cells)} |"


STUDY = Study(ARMS, profile_section(), KEPT, Path("docs/ablations_table.md"), HEAD, row)

if __name__ == "__main__":
    main(STUDY, __doc__)
