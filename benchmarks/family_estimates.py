"""The doctor's estimates for the models of a shipped profile on data-centre GPUs: the tables of docs/families.

    python -m benchmarks.family_estimates gpt2

It runs no model. Lengths are those of Dolly's training rows in GPT-2's tokens, limits are the profile's. Times follow
from counted operations and two assumptions about one GPU, printed below the tables; nobody measured them.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from typing import Any

from commands.check import check_profile
from commands.doctor_plan import Plan, plan_stages
from commands.recipe import Profile
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.preflight.lengths import Lengths
from distill.preflight.memory_estimate import Placement
from distill.preflight.models import origin_of
from distill.preflight.report import duration
from distill.project.table import StudentRow, Table

# 11,435 training and 1,000 validation rows in the profile's template: prompts of at most 256 tokens, rows of at most
# 512. Samples are as long as the responses would be if each were cut at the 256 tokens of generation.
DOLLY = Lengths(11_435, 1_000, 71.3, 74.3, 256, 477, 512, 68.9, known=True, valid_p95=254)
# Sustained, of the tensor cores' 156 TFLOP/s in TF32 with float32 weights.
TRAINING = 50e12
# Sampling reads all weights and caches for each token of a batch: bytes a second.
READING = 1.0e12
_SAVING = {"micro_batch": 4, "decode_batch": 32, "gradient_checkpointing": True}


@dataclass(frozen=True)
class Layout:
    """A layout of a stage, with its name."""

    name: str
    place: Placement


def layouts(profile: Profile) -> list[Layout]:
    """As shipped on one GPU; saving on one; saving and divided over eight."""
    hardware = profile.hardware.model_dump()
    shipped = Placement("cuda", hardware["micro_batch"], hardware["decode_batch"])
    saving: dict[str, Any] = _SAVING
    frugal = replace(shipped, **saving)
    return [
        Layout("as shipped", shipped),
        Layout("saving", frugal),
        Layout("saving, ZeRO-3 on 8", replace(frugal, processes=8, zero_stage=3)),
    ]


def plans(family: str, student: str, profile: Profile, place: Placement) -> tuple[Plan, ...]:
    """The stages of one student in the layout `place`."""
    recipe = profile.recipe
    students = {student: StudentRow(family=family)}
    methods = dict.fromkeys(("sft", "kd", "seqkd", "minillm"), students)
    table = Table(students=students, families={family: "."}, datasets={}, methods=methods, trained=methods)
    models = (recipe.teacher.origin, recipe.students[student].origin)
    origins = [origin_of(model, 0, os.environ) for model in models if model is not None]
    teacher, small = [origin.shape for origin in origins]
    assert teacher is not None and small is not None  # the shipped profiles name known models
    return plan_stages(table, profile, student, DOLLY, teacher, small, place)


def seconds(plan: Plan, family: str, student: str, profile: Profile) -> float:
    """Training by operations; sampling by the bytes that each of its steps reads."""
    assert plan.work is not None
    settings = profile.recipe.students[student].trained.get(plan.name.split("@")[0])
    if not isinstance(settings, MiniLLMSettings):
        return (plan.work.operations + plan.work.decoding) / TRAINING
    rows = int(profile.hardware.model_dump()["decode_batch"])
    found = plans(family, student, profile, Placement("cuda", 1, rows))
    memory = next(p.memory for p in found if p.name == plan.name)
    assert memory is not None
    held = memory.device["rollouts"]
    read = held["student"] + held["teacher"] + held["key-value caches"] / 2  # caches grow: half on average
    decodes = -(-settings.max_steps // settings.steps_per_collection) * -(-settings.rollouts // rows)
    return plan.work.operations / TRAINING + decodes * profile.recipe.prompt.max_response_tokens * read / READING


def main() -> None:
    """Print one table for each student, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family")
    family = parser.parse_args().family
    profile = check_profile(family)
    ways = layouts(profile)
    for student in profile.recipe.students:
        print(f"| {student} | {' | '.join(f'GiB, {way.name}' for way in ways)} | steps | tokens trained | time |")
        print(f"|---|{'---:|' * (len(ways) + 3)}")
        by_way = [plans(family, student, profile, way.place) for way in ways]
        for number, plan in enumerate(by_way[0]):
            if plan.memory is None or plan.work is None or not plan.weights:
                continue  # it trains nothing
            peaks = [chosen[number].memory for chosen in by_way]
            told = " | ".join(f"{peak.peak / 2**30:.0f}" for peak in peaks if peak is not None)
            took = duration(seconds(plan, family, student, profile))
            trained = f"{plan.work.trained / 1e6:.0f} M"
            print(f"| `{plan.name.split('@')[0]}` | {told} | {plan.work.steps:,} | {trained} | {took} |")
        print()
    print(f"Assumed: {TRAINING / 1e12:.0f} TFLOP/s sustained in training, {READING / 1e12:.1f} TB/s read in sampling.")


if __name__ == "__main__":
    main()
