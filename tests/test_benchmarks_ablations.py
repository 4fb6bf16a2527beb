"""The studies of MiniLLM's parts: every arm can be run, rates are climbed, moments are those of the definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.ablations import ARMS, RATES, STEPS, Outcome, Runs, minus_default, row
from benchmarks.gradient_variance import BATCH, BATCHES, GROUPS, Moments, settings_of
from benchmarks.short_ablations import CHOSEN
from distill.minillm.settings import MiniLLMSettings


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_sound_combination(name: str) -> None:
    settings = MiniLLMSettings.model_validate({**ARMS[name].settings, **STEPS, "learning_rate": RATES[0]})
    assert (
        name == "default"
        or ARMS[name].start != "init"
        or settings != MiniLLMSettings.model_validate({**STEPS, "learning_rate": RATES[0]})
    ), "an arm that changes nothing"


def test_the_short_study_takes_its_arms_from_the_long_one() -> None:
    assert set(CHOSEN) <= set(ARMS)
    assert len(set(CHOSEN)) == len(CHOSEN)


def outcome(valid: float) -> Outcome:
    return Outcome(valid=valid, test=valid + 1, tokens=10.0, repeated=0.5, reverse_kl=1.0)


def test_rates_are_climbed_until_both_neighbours_are_worse(tmp_path: Path) -> None:
    runs, made = Runs(tmp_path / "runs.json"), []
    score = dict(zip(RATES, (1.0, 2.0, 3.0, 5.0, 9.0, 4.0), strict=True))
    while missing := runs.missing_rates("default"):
        assert runs.best_rate("default") is None and row("default", runs) is None
        for rate in missing:
            made.append(rate)
            runs.outcomes[runs._key("default", rate, 0)] = outcome(score[rate])
    assert runs.best_rate("default") == RATES[4]
    assert sorted(made) == list(RATES[2:])  # never the smallest two
    line = row("default", runs)
    assert line is not None and "| 1 | 0.008 | 10.0 ± 0.0 | 9.0 | 10.0 | 0.5 | 1.00 |" in line


def test_arms_are_compared_with_the_default_seed_by_seed(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.json")
    for name, scores in (("default", (10.0, 20.0, 30.0)), ("alpha 0.1", (11.0, 23.0, 32.0))):
        for rate in RATES[1:5]:
            runs.outcomes[runs._key(name, rate, 0)] = outcome(0.0)
        for seed, score in enumerate(scores):
            runs.outcomes[runs._key(name, RATES[2], seed)] = outcome(score)
    assert minus_default("default", runs) == "–"
    assert minus_default("alpha 0.1", runs) == "+2.0 ± 0.6"  # 1, 3, 2: deviation 1 over the root of 3
    assert minus_default("alpha 0.4", runs) == "–"


def test_a_kept_run_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "runs.json").write_text(
        '{"default | 0.002 | 0": {"valid": 1, "test": 2, "tokens": 3, "repeated": 4, "reverse_kl": 5}}'
    )
    assert Runs(tmp_path / "runs.json").make("default", 2e-3, 0) == Outcome(1, 2, 3, 4, 5)


@pytest.mark.parametrize("group", GROUPS)
def test_estimators_of_the_variance_study(group: str) -> None:
    for given in GROUPS[group].values():
        settings = settings_of(group, given, 0.2)
        assert settings.single_step == (group != "default, long part" and given.get("single_step", True))
        assert (settings.rollouts, settings.minibatch) == (BATCHES * BATCH, BATCH)


def test_moments_find_mean_and_variance() -> None:
    """Mini-batch gradients with a known mean and a trace of 3 x 200; a rollout has 64 times that."""
    draw = torch.Generator().manual_seed(0)
    centre = torch.full((200,), 2.0)
    moments = Moments()
    for seed in range(40):
        for _ in range(BATCHES):
            moments.add(seed, centre + 3**0.5 * torch.randn(200, generator=draw))
    traces = moments.traces()
    assert sum(traces) / len(traces) == pytest.approx(600 * BATCH, rel=0.02)
    assert moments.squared_mean() == pytest.approx(4.0 * 200, rel=0.02)
    value, error = moments.relative()
    assert value == pytest.approx(600 * BATCH / 800, rel=0.03)
    assert 0 < error < 0.02 * value
