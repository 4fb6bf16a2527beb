"""What the measurements rest on: the baseline computes our losses, and both decodes draw from one distribution."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import minillm_cycle
from benchmarks.bare_passes import bare_seconds
from benchmarks.cycle_workload import END, Workload
from benchmarks.evaluation_decode import by_generate, ours
from benchmarks.fresh_process import in_fresh_process
from benchmarks.reference_cycle import ReferenceCycle
from distill.objectives.minillm.objective import MiniLLM
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from tests.tiny_models import tiny_model

SMALL = Workload(
    vocabulary=50, prompt_tokens=9, response_tokens=12, rollouts=16, minibatch=4, student=(2, 64), teacher=(2, 128)
)


def test_the_baseline_has_our_losses() -> None:
    """Two cycles at a rate that moves them, prompts of many lengths: each pass sees what the other side's does."""
    settings = SMALL.settings(cycles=2).model_copy(update={"learning_rate": 1e-3, "warmup_steps": 0})
    prompts = [prompt[: 1 + i % 9] for i, prompt in enumerate(SMALL.prompts())]
    limit = SMALL.response_tokens
    baseline = ReferenceCycle(*SMALL.models(), prompts, settings, limit, END, SMALL.seed).train()
    run = OnPolicyRun(
        *SMALL.models(),
        Task(prompts, limit, END),
        MiniLLM(),
        settings,
        Execution(3, 5),
        SMALL.seed,
        lambda _: {"rouge_l": 0.0},
    )
    run.train()
    losses = [value for _, value in run.curves.points["loss"]]
    assert len(losses) == 32 and len(set(losses)) == 32
    # Rounding grows over 32 updates at this rate, by how much depends on the processor: 2.3e-5 has been seen.
    assert losses == pytest.approx(baseline, rel=5e-5, abs=2e-6)
    spent = bare_seconds(run)
    assert spent["collect"] > 0 and spent["update"] > 0
    assert all(parameter.grad is None for parameter in run.student.parameters())


def test_our_decode_draws_as_generate_does() -> None:
    """Whole responses of both, 6,000 each from each of three prompts, by a two-sample chi-square."""
    model = tiny_model(vocabulary=6, width=8, dtype=torch.float32)
    prompts = [[3], [1, END, 2], [5, 4, 3, 2, 1, 1, 2]]
    many = [prompt for prompt in prompts for _ in range(6_000)]
    found = [decode(model, many, 3, 1) for decode in (ours, by_generate)]
    for start in range(0, len(many), 6_000):
        mine, theirs = (Counter(map(tuple, side[start : start + 6_000])) for side in found)
        pairs = [(mine[r], theirs[r]) for r in mine | theirs if mine[r] + theirs[r] >= 20]
        statistic = sum((a - b) ** 2 / (a + b) for a, b in pairs)
        # Chi-square with at most len(pairs) degrees of freedom: mean n, deviation sqrt(2 n).
        assert len(pairs) > 20
        assert statistic < len(pairs) + 5 * (2 * len(pairs)) ** 0.5


def test_responses_of_the_workload_are_a_third_of_the_limit_long() -> None:
    work = replace(SMALL, vocabulary=1000, response_tokens=40, rollouts=400)
    lengths = [len(response) for response in ours(work.models()[0], work.prompts(), 40, 0)]
    assert sum(lengths) / len(lengths) == pytest.approx(40 / 3, rel=0.15)


def test_the_command_measures_a_cycle() -> None:
    command = (
        "benchmarks.minillm_cycle",
        "--side",
        "ours",
        "--bare",
        "--small",
        "--rollouts",
        "16",
        "--response-tokens",
        "4",
    )
    found = in_fresh_process(*command)
    assert len(found["losses"]) == 4
    assert found["cycle"] == pytest.approx(found["collect"] + found["update"])
    assert found["peak_mib"] > 2 and sum(found["bare"].values()) > 0
    passes = found["cost"]["passes_per_rollout_token"]
    assert passes["student_forward"] + passes["student_backward"] == 12


def test_a_stopped_bench_goes_on_from_what_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(module: str, *arguments: str) -> dict[str, Any]:
        if len(measured) == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        measured.append(module)
        return {"cycle": float(len(measured)), "peak_mib": 1.0}

    monkeypatch.setattr(minillm_cycle, "in_fresh_process", measure)
    commands: dict[str, tuple[str, ...]] = {"ours": ("a",), "reference": ("b",)}
    with pytest.raises(KeyboardInterrupt):
        minillm_cycle.take_turns(commands, 2, tmp_path / "kept.jsonl")
    (tmp_path / "again").touch()
    runs = minillm_cycle.take_turns(commands, 2, tmp_path / "kept.jsonl")
    assert measured == ["a", "b", "a", "b"]
    assert {side: [found["cycle"] for found in kept] for side, kept in runs.items()} == {
        "ours": [1.0, 3.0],
        "reference": [2.0, 4.0],
    }


def test_a_measurement_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="unrecognized arguments: --nothing"):
        in_fresh_process("benchmarks.minillm_cycle", "--nothing")
