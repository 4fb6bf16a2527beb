"""The cost ledger against counts made by hand from a run's rollouts."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.ledger import PASSES, CostLedger
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.process_memory import PeakMemory
from tests.tiny_models import EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8]]
DECODE, MICRO, EPOCHS = 3, 2, 2


def finished_run(alpha: float = 0.3, lm_coef: float = 0.0) -> OnPolicyRun:
    """One collection of four rollouts and its updates."""
    chosen: dict[str, Any] = {"max_steps": EPOCHS, "rollouts": 4, "minibatch": 4, "inner_epochs": EPOCHS}
    settings = MiniLLMSettings(
        **chosen, teacher_mix_alpha=alpha, learning_rate=1e-3, lm_coef=lm_coef, lm_batch=2, lm_length=6
    )
    task = Task(PROMPTS, 8, EOS, torch.arange(200) % 11)
    run = OnPolicyRun(
        tiny_model(), tiny_model(seed=1), task, MiniLLM(), settings, Execution(MICRO, DECODE), 0, checksum
    )
    run.train()
    return run


def test_counts_by_hand() -> None:
    run = finished_run()
    assert run.collection is not None
    pairs = [(len(p), len(r.ids)) for p, r in zip(run.collection.prompts, run.collection.responses, strict=True)]
    tokens = sum(response for _, response in pairs)
    by_prompt = sorted(pairs, key=lambda pair: pair[0])
    batches = [by_prompt[:DECODE], by_prompt[DECODE:]]
    collect = run.ledger.phases["collect"]
    assert collect["tokens"] == tokens
    # Left padding is up to the longest prompt of a batch; a response's last token is never fed.
    assert collect["positions"] == sum(prompt + response - 1 for prompt, response in pairs)
    assert collect["padded"] - collect["positions"] == sum(
        max(p for p, _ in batch) - prompt for batch in batches for prompt, _ in batch
    )
    assert collect["slots"] == sum(len(batch) * max(r for _, r in batch) for batch in batches)
    fed = sorted(prompt + response - 1 for prompt, response in pairs)
    update = run.ledger.phases["update"]
    assert update["tokens"] == EPOCHS * tokens
    assert update["positions"] == EPOCHS * sum(fed)
    assert update["padded"] == EPOCHS * (2 * fed[1] + 2 * fed[3])
    report = run.ledger.summary()
    assert report["collect"]["fill"] == pytest.approx(collect["positions"] / collect["padded"], abs=1e-4)
    assert report["collect"]["rows"] == pytest.approx(tokens / collect["slots"], abs=1e-4)
    assert report["update"]["fill"] == pytest.approx(update["positions"] / update["padded"], abs=1e-4)
    assert report["update"]["rows"] is None


@pytest.mark.parametrize(("alpha", "teacher"), [(0.3, {"teacher_decode": 1.0}), (0.0, {"teacher_forward": 1.0})])
def test_passes_are_those_of_the_algorithm(alpha: float, teacher: dict[str, float]) -> None:
    """D_s + D_t + 3 E F_s with mixing; without it D_s + F_t + 3 E F_s."""
    student = {"student_decode": 1.0, "student_forward": float(EPOCHS), "student_backward": 2.0 * EPOCHS}
    found = finished_run(alpha).ledger.summary()["passes_per_rollout_token"]
    assert found == dict.fromkeys(PASSES, 0.0) | student | teacher


def test_the_table_names_every_phase() -> None:
    run = finished_run(lm_coef=0.5)
    phases = ("validate", "collect", "check", "update", "plain_text")
    shown = run.ledger.lines()
    assert [line.split()[0] for line in shown] == ["phase", *phases, "passes"]
    assert "student decode 1, teacher decode 1, student forward 2, student backward 4" in shown[-1]
    assert run.ledger.phases["plain_text"]["tokens"] == EPOCHS * 2 * 6
    for phase in phases:
        entries = run.ledger.phases[phase]
        assert entries["seconds"] > 0 and entries["cpu_seconds"] > 0 and entries["peak_rss_mib"] > 0, phase


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux can forget its marks")
def test_each_phase_has_its_own_peak() -> None:
    ledger = CostLedger()
    with ledger.timed("much"):
        much = torch.ones(64, 2**20)
        del much
    with ledger.timed("little"):
        pass
    peaks = {phase: entries["peak_rss_mib"] for phase, entries in ledger.phases.items()}
    assert peaks["much"] - peaks["little"] > 200
    assert ledger.memory.highest()["peak_rss_mib"] >= peaks["much"] - 1


def test_a_phase_keeps_its_highest_peak() -> None:
    ledger = CostLedger({"update": {"seconds": 1.0, "tokens": 5.0, "peak_rss_mib": 1e9}})
    with ledger.timed("update"):
        pass
    assert ledger.phases["update"]["peak_rss_mib"] == 1e9
    assert ledger.phases["update"]["seconds"] > 1.0
    assert PeakMemory().highest()["peak_rss_mib"] < 1e9
