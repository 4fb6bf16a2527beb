"""Teacher mixing and the policy gradient: MiniLLM with and without each, in several settings (grounds).

A ground is the rest of the setting: the student's start and size, the length of training, the prompts and the returns.
The arms of a ground differ in one part. They share start, teacher and rollout seeds; their learning rates are chosen as
in `benchmarks.ablations`.

    python -m benchmarks.ablation_pairs [--arms NAME ...] [--workers 2]

It writes docs/ablation_pairs_table.md (`--arms` without a name: of the finished runs only); these are kept in
docs/ablation_pairs_runs.jsonl. Starts that the pipeline does not make are trained first, by its own stages, and kept in
.resume/starts.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.ablations import ARMS as ABLATIONS
from benchmarks.ablations import DEFAULT, profile_section
from benchmarks.ablations import KEPT as ABLATIONS_KEPT
from benchmarks.kept_runs import RATES, Arm, Runs, spread, value_of
from benchmarks.study import Study, main
from benchmarks.toy_runs import Prompts
from benchmarks.workspace import ROOT, edit_yaml, run, toy_run_place

KEPT = Path("docs/ablation_pairs_runs.jsonl")
STARTS: dict[str, dict[str, Any]] = {
    "6 epochs": {"init.epochs": 6},
    "1 layer of 32": {"model.init.n_layer": 1, "model.init.n_embd": 32},
}
"""Starts made here, by their changes to the student's section of the shipped profile."""
PARTS: dict[str, dict[str, Any]] = {
    "without mixing": {"teacher_mix_alpha": 0.0},
    "alpha 1": {"teacher_mix_alpha": 1.0},
    "without policy gradient": {"policy_gradient": False},
}
"""An arm's changes on its ground."""


@dataclass(frozen=True)
class Ground:
    """The setting that the arms of a comparison share."""

    settings: dict[str, Any] = field(default_factory=dict)
    start: str = "init"
    prompts: Prompts = "all"
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = RATES
    parts: tuple[str, ...] = tuple(PARTS)

    def arms(self, name: str) -> dict[str, Arm]:
        """The whole method on this ground, and with each part changed; compared with the whole."""
        changes = {name: {}, **{f"{name}, {part}": PARTS[part] for part in self.parts}}
        return {
            arm: Arm({**self.settings, **change}, self.start, name, self.seeds, self.prompts, self.rates)
            for arm, change in changes.items()
        }


GROUNDS: dict[str, Ground] = {
    "early start": Ground(start="6 epochs"),
    "small student": Ground(start="1 layer of 32"),
    "long answers": Ground(prompts="long"),
    "shipped length": Ground(
        {"max_steps": 480, "evaluate_every": 96},
        rates=RATES[2:5],
        seeds=(0, 1, 2, 3, 4),
        parts=("without mixing", "alpha 1"),
    ),
}
SINGLE = "without policy gradient"
EXACT = {"rewards": "expected", "return_from": "next", "discount": 1.0, "whiten": "none"}
ON_DEFAULT: dict[str, Arm] = {
    DEFAULT: ABLATIONS[DEFAULT],
    SINGLE: Arm(PARTS[SINGLE]),
    f"{SINGLE}, without mixing": Arm({**PARTS[SINGLE], **PARTS["without mixing"]}, against=SINGLE),
    "alpha 1": Arm(PARTS["alpha 1"]),
    f"alpha 1, {SINGLE}": Arm({**PARTS[SINGLE], **PARTS["alpha 1"]}, against="alpha 1"),
    "long part by R_{t+1}, a quarter": Arm({**EXACT, "reward_scale": 4.0}, against=SINGLE),
    "long part by R_{t+1}, a sixteenth": Arm({**EXACT, "reward_scale": 16.0}, against=SINGLE),
}
"""On the default's own ground: mixing without the policy gradient and the reverse, and a long part of less weight."""
ARMS = ON_DEFAULT | {name: arm for title, ground in GROUNDS.items() for name, arm in ground.arms(title).items()}
HEAD = (
    "| arm | runs | lr | test Rouge-L | difference | at one lr | on long references | difference | at one lr "
    "| valid Rouge-L | difference | at one lr | answer tokens | repeated 4-grams % "
    "| reverse KL, own answers | difference | at one lr |"
)


def make_start(name: str) -> None:
    """Train a start of `STARTS` in a scratch folder, unless it is there."""
    kept = ROOT / ".resume/starts" / name
    if name not in STARTS or kept.is_dir():
        return
    with tempfile.TemporaryDirectory() as folder:
        place = toy_run_place(Path(folder), "init", {})
        changes = {f"recipe.students.tiny.{setting}": value for setting, value in STARTS[name].items()}
        edit_yaml(place / "profiles/toy.yaml", **changes)
        if any(setting.startswith("model.") for setting in STARTS[name]):
            (place / "runs/tiny/base").unlink()
            run(place, "stages.base", "tiny")
        run(place, "stages.on_rows", "tiny", "init", "sft.py", "base")
        shutil.copytree(place / "runs/tiny/init", kept)


def row(name: str, runs: Runs) -> str | None:
    """One line of the table; a difference is the arm's minus that of the whole method on its ground."""
    outcomes = list(runs.chosen(name).values())
    if not outcomes:
        return None
    cells = [name, str(len(outcomes)), f"{runs.best_rate(name):g}"]
    for quantity in ("test", "test_long", "valid"):
        cells += [spread([value_of(o, quantity) for o in outcomes])]
        cells += [runs.difference(name, quantity), runs.difference(name, quantity, same_rate=True)]
    cells += [f"{mean(o.tokens for o in outcomes):.1f}", f"{mean(o.repeated for o in outcomes):.1f}"]
    cells += [spread([o.kl for o in outcomes], 2)]
    cells += [runs.difference(name, "kl"), runs.difference(name, "kl", same_rate=True)]
    return f"| {' | '.join(cells)} |"


STUDY = Study(
    ARMS,
    profile_section(),
    KEPT,
    Path("docs/ablation_pairs_table.md"),
    HEAD,
    row,
    others=[ABLATIONS_KEPT],
    prepare=lambda arm: make_start(arm.start),
)

if __name__ == "__main__":
    main(STUDY, __doc__)
