"""The memory estimate: against fresh processes, and what must follow from its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.training_memory import cases
from distill.preflight.memory_estimate import LIBRARIES, Estimate, Placement, PlannedRun, estimate
from distill.preflight.shapes import known_shape, shape_of

ROOT = Path(__file__).resolve().parents[1]
CLOSE = 0.15

GPT2 = shape_of({"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 32})
RUN = PlannedRun("rows", GPT2, None, batch=4, prompt=6, response=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_the_estimate_is_close_to_the_peak_of_a_fresh_process(name: str) -> None:
    command = [sys.executable, "-m", "benchmarks.training_memory", name]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    found = json.loads(said.splitlines()[-1])
    # libraries are a constant of the estimate: they must not be what makes it fit
    assert found["measured"] > 2 * found["before"]
    assert found["before"] == pytest.approx(LIBRARIES, rel=CLOSE)
    assert found["estimated"] == pytest.approx(found["measured"], rel=CLOSE)


def test_a_small_run_adds_up_by_hand() -> None:
    found = estimate(replace(RUN, batch=2), Placement(micro_batch=2))
    weights = 4 * GPT2.parameters
    held = found.device["batch, backward"]
    assert held["student"] == weights and held["AdamW's moments"] == 2 * weights
    assert held["gradients"] == 0, "the first micro-batch is the last: none are there yet"
    # 2 rows of 16 tokens; a layer keeps 16 numbers a unit of width with one-kernel GELU, and two masks of dropout; on
    # a CPU attention with dropout keeps three squares a head; at the end the last norm's input, its output, the head's
    kept = 16 * 8 + 2 * 8 + 3 * 2 * 16
    assert held["activations"] == 4 * 32 * (2 * kept + 3 * 8)
    assert held["logits"] == 4 * 3 * 20 * 32  # three tensors over 2 x 10 response tokens
    assert estimate(RUN, Placement(micro_batch=2)).device["batch, backward"]["gradients"] == weights


def test_what_a_gpu_holds_is_apart_from_what_the_cpu_holds() -> None:
    run = PlannedRun("own samples", GPT2, GPT2, 4, 6, 10, rollouts=8)
    device, host = estimate(run, Placement("cuda")).device, estimate(run, Placement("cuda")).host
    assert "libraries" in host and "best weights so far" in host and all("teacher" in held for held in device.values())
    away = estimate(run, Placement("cuda", teacher_offload=True))
    assert "teacher" in away.host and all("teacher" not in held for held in away.device.values())
    assert estimate(run, Placement()).host == {}
    whole, part = (
        estimate(run, Placement("cuda", processes=2, teacher_shard=divided)).device["update, backward"]["teacher"]
        for divided in (False, True)
    )
    embeddings = 4 * GPT2.vocabulary * GPT2.hidden
    assert part == embeddings + (whole - embeddings) / 2


@pytest.mark.parametrize(
    ("stage", "divided"), [(0, ()), (1, ("AdamW's moments",)), (3, ("AdamW's moments", "student"))]
)
def test_zero_divides_what_its_stage_says(stage: int, divided: tuple[str, ...]) -> None:
    run = replace(RUN, batch=8)
    whole = estimate(run, Placement("cuda", micro_batch=1)).device["end of backward"]
    part = estimate(run, Placement("cuda", micro_batch=1, processes=4, zero_stage=stage)).device["end of backward"]
    for name in ("student", "AdamW's moments"):
        assert part[name] == whole[name] / (4 if name in divided else 1)
    assert part["gradients"] == whole["gradients"] / (4 if stage >= 2 else 1)


def total(run: PlannedRun, **placed: object) -> Estimate:
    return estimate(run, replace(Placement("cuda", micro_batch=8), **placed))  # type: ignore[arg-type]


def test_every_remedy_helps() -> None:
    student, teacher = known_shape("openai-community/gpt2"), known_shape("openai-community/gpt2-xl")
    assert student is not None and teacher is not None
    run = PlannedRun(
        "own samples", student, teacher, 64, 256, 256, rollouts=256, plain_text=(64, 512), plain_text_teacher=True
    )
    before = total(run, decode_batch=128)
    assert before.moment == "rollouts"
    # the teacher's cache alone: 48 layers of 1600, keys and values in float32, for 128 rows of 512 tokens
    assert before.device["rollouts"]["key-value caches"] > 128 * 512 * 2 * 48 * 1600 * 4
    assert total(run, decode_batch=16).peak < before.peak
    updates = total(replace(run, rollouts=1))
    assert updates.moment.startswith("plain text")
    assert total(replace(run, rollouts=1), gradient_checkpointing=True).peak < updates.peak
    assert total(replace(run, rollouts=1), micro_batch=1).peak < updates.peak
    assert total(replace(run, rollouts=1), offload="optimizer").peak < updates.peak
    validated = replace(RUN, student=student, validated=1000, prompt=256, response=256)
    # Its loss forms some logits at a time, so what stands above is the cache.
    assert total(validated, decode_batch=128).moment == "validation, answers"
