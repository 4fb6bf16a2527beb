"""Rewards, returns, whitening and advantages against slow loops over plain Python floats."""

from __future__ import annotations

import math
import random
from itertools import product
from statistics import fmean, pvariance
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill.objectives.minillm.returns import (
    advantages,
    discounted_returns,
    expected_rewards,
    sampled_rewards,
    whitened,
)
from distill.objectives.minillm.settings import MiniLLMSettings

Rows = list[list[float]]


def slow_returns(rewards: Rows, discount: float, start: str, length_norm: bool) -> Rows:
    """sum over t' of gamma^(t'-first) r_t' / number of terms, one position at a time, straight from the paper."""
    found = []
    for row in rewards:
        returns = []
        for t in range(len(row)):
            first = t if start == "current" else t + 1
            terms = [discount ** (later - first) * row[later] for later in range(first, len(row))]
            returns.append(sum(terms) / max(1, len(terms) if length_norm else 1))
        found.append(returns)
    return found


def padded(rows: Rows, width: int, padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """(values, mask), each [B, width]; `padding` fills what the mask leaves out."""
    values = torch.full((len(rows), width), padding, dtype=torch.float64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        mask[i, : len(row)] = True
    return values, mask


def minillm(**given: Any) -> MiniLLMSettings:
    return MiniLLMSettings(max_steps=1, learning_rate=1e-3, **given)


numbers = st.floats(-5, 5, allow_nan=False)
ragged = st.lists(st.lists(numbers, min_size=1, max_size=7), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(ragged, st.floats(0, 1), st.sampled_from(["current", "next"]), st.booleans(), st.integers(0, 3))
def test_returns_agree_with_a_loop_over_pairs(
    rows: Rows, discount: float, start: str, length_norm: bool, extra: int
) -> None:
    width = max(map(len, rows)) + extra
    # What stands in the padding must not matter.
    rewards, mask = padded(rows, width, padding=99.0)
    found = discounted_returns(rewards, mask, discount, start, length_norm)
    expected, _ = padded(slow_returns(rows, discount, start, length_norm), width)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_returns_by_hand() -> None:
    rewards, mask = padded([[1.0, 2.0, 4.0]], 4)
    # R_t = 1 + .5*2 + .25*4, 2 + .5*4, 4; R_{t+1} = 2 + .5*4, 4, nothing
    assert discounted_returns(rewards, mask, 0.5, "current", False).tolist() == [[3.0, 4.0, 4.0, 0.0]]
    assert discounted_returns(rewards, mask, 0.5, "next", False).tolist() == [[4.0, 4.0, 0.0, 0.0]]
    assert discounted_returns(rewards, mask, 0.5, "current", True).tolist() == [[1.0, 2.0, 4.0, 0.0]]
    # the last token has no reward after it: 0 over a guard of 1, not 0 over 0 or over -1
    assert discounted_returns(rewards, mask, 0.5, "next", True).tolist() == [[2.0, 4.0, 0.0, 0.0]]


def test_discount_zero_leaves_the_nearest_reward() -> None:
    rewards, mask = padded([[1.0, 2.0, 4.0]], 3)
    assert discounted_returns(rewards, mask, 0.0, "current", False).tolist() == [[1.0, 2.0, 4.0]]
    assert discounted_returns(rewards, mask, 0.0, "next", False).tolist() == [[2.0, 4.0, 0.0]]


def test_rewards_by_hand() -> None:
    logp, logq = torch.tensor([[-1.0, -9.0]]), torch.tensor([[-3.0, -1.0]])
    assert sampled_rewards(logp, logq, 1.0, None).tolist() == [[2.0, -8.0]]  # teacher first
    assert sampled_rewards(logp, logq, 0.5, 10.0).tolist() == [[4.0, -10.0]]  # scaled, then clipped
    assert expected_rewards(torch.tensor([[3.0, 40.0]]), 2.0, 10.0).tolist() == [[-1.5, -10.0]]


def test_an_expected_reward_is_the_mean_of_the_sampled_ones() -> None:
    torch.manual_seed(0)
    logq, logp = torch.randn(2, 5, 7, dtype=torch.float64).log_softmax(-1)
    mean = (logq.exp() * sampled_rewards(logp, logq, 2.0, None)).sum(-1)
    kl = (logq.exp() * (logq - logp)).sum(-1)
    torch.testing.assert_close(mean, expected_rewards(kl, 2.0, None), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(ragged, st.integers(0, 3), st.sampled_from(["tokens", "grid"]))
def test_whitening_agrees_with_a_loop(rows: Rows, extra: int, over: str) -> None:
    width = max(map(len, rows)) + extra
    values, mask = padded(rows, width)
    population = [value for row in rows for value in row]
    if over == "grid":  # the padding's zeros count, as in the authors' code
        population += [0.0] * (len(rows) * width - len(population))
    mean, deviation = fmean(population), math.sqrt(pvariance(population) + 1e-8)
    expected, _ = padded([[(value - mean) / deviation for value in row] for row in rows], width)
    torch.testing.assert_close(whitened(values, mask, over), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(whitened(values, mask, "none"), values)


def test_whitening_by_hand() -> None:
    values, mask = padded([[1.0, 3.0], [5.0]], 2)
    root = math.sqrt(8 / 3)
    torch.testing.assert_close(
        whitened(values, mask, "tokens"),
        torch.tensor([[-2 / root, 0.0], [2 / root, 0.0]], dtype=torch.float64),
    )
    # over the grid 1, 3, 5, 0: mean 2.25, variance 3.6875
    root = math.sqrt(3.6875)
    torch.testing.assert_close(
        whitened(values, mask, "grid"),
        torch.tensor([[-1.25 / root, 0.75 / root], [2.75 / root, 0.0]], dtype=torch.float64),
    )


def test_whitening_over_tokens_does_not_see_the_padding_and_over_the_grid_does() -> None:
    rows = [[1.0, -2.0, 0.5], [3.0]]
    narrow, wide = padded(rows, 3), padded(rows, 9)
    assert torch.equal(whitened(*narrow, "tokens"), whitened(*wide, "tokens")[:, :3])
    assert not torch.allclose(whitened(*narrow, "grid"), whitened(*wide, "grid")[:, :3])


def test_equal_returns_whiten_to_zero() -> None:
    values, mask = padded([[2.0, 2.0], [2.0]], 3)
    assert torch.equal(whitened(values, mask, "tokens"), torch.zeros(2, 3, dtype=torch.float64))


def combinations() -> list[dict[str, Any]]:
    """Every row of the table of settings that shapes an advantage, where the settings allow it."""
    grid: dict[str, list[Any]] = {
        "rewards": ["sampled", "expected"],
        "return_from": ["current", "next"],
        "discount": [1.0, 0.95, 0.3],
        "length_norm": [True, False],
        "baseline": ["none", "closed_form"],
        "reward_scale": [1.0, 0.5],
        "reward_clip": [None, 0.7],
    }
    every = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    own = ("sampled", "current")
    return [c for c in every if c["baseline"] == "none" or (c["rewards"], c["return_from"]) == own]


def test_advantages_agree_with_loops_for_all_settings() -> None:
    draw = random.Random(0)
    lengths = [3, 1, 5]
    logp, logq, kl = ([[draw.uniform(-4, 0) for _ in range(n)] for n in lengths] for _ in range(3))
    kl = [[-value for value in row] for row in kl]
    for chosen in combinations():
        scale, clip = chosen["reward_scale"], chosen["reward_clip"] or math.inf

        def reward(log_ratio: float, scale: float = scale, clip: float = clip) -> float:
            return max(-clip, min(clip, log_ratio / scale))

        sampled = [[reward(p - q) for p, q in zip(*pair, strict=True)] for pair in zip(logp, logq, strict=True)]
        expected = [[reward(-value) for value in row] for row in kl]
        rewards = sampled if chosen["rewards"] == "sampled" else expected
        returns = slow_returns(rewards, chosen["discount"], chosen["return_from"], chosen["length_norm"])
        if chosen["baseline"] == "closed_form":
            for i, row in enumerate(returns):
                for t in range(len(row)):
                    row[t] -= expected[i][t] / (len(row) - t if chosen["length_norm"] else 1)
        (teacher, mask), (student, _), (divergence, _) = (padded(rows, 6) for rows in (logp, logq, kl))
        found = advantages(minillm(**chosen), teacher, student, divergence, mask)
        torch.testing.assert_close(found, padded(returns, 6)[0], rtol=1e-12, atol=1e-12, msg=str(chosen))


def test_presets_hold_what_the_paper_and_the_reference_compute() -> None:
    paper, reference, default = (minillm(preset=name) for name in ("paper", "reference", "default"))
    assert (paper.rewards, paper.return_from, paper.discount, paper.whiten) == ("sampled", "next", 1.0, "none")
    assert (paper.clip_form, paper.single_step_weighted, paper.normalise) == ("paper", True, "sequences")
    assert (reference.reward_scale, reference.reward_clip, reference.discount) == (0.5, 100.0, 0.95)
    assert (reference.return_from, reference.whiten, reference.lm_kd_ratio) == ("current", "grid", 0.5)
    assert (default.rewards, default.return_from, default.whiten) == ("expected", "current", "tokens")
    assert minillm(preset="paper", whiten="tokens").whiten == "tokens"  # what is written out wins


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"rewards": "expected", "return_from": "current", "single_step": False}, "`single_step` that part"),
        ({"rewards": "expected", "return_from": "next", "single_step": False}, "without `single_step` it would"),
        ({"preset": "paper", "single_step": False}, "use `return_from: current`"),
        ({"policy_gradient": False, "single_step": False}, "both off"),
        ({"rewards": "expected", "baseline": "closed_form"}, "`baseline: closed_form` needs"),
        ({"rewards": "sampled", "return_from": "next", "baseline": "closed_form"}, "`baseline: closed_form` needs"),
        ({"rewards": "sampled", "baseline": "closed_form", "policy_gradient": False}, "leaves out; remove it"),
        ({"schedule": "cosine", "min_learning_rate": 1e-2}, "must not be over `learning_rate` \\(0.001\\)"),
        ({"betas": [0.9, 1.0]}, "less than 1"),
        ({"rollouts": 100, "minibatch": 64}, "multiple of `minibatch`"),
        ({"teacher_mix_alpha": 1.1}, "less than or equal to 1"),
        ({"clip_range": 1.0}, "less than 1"),
        ({"preset": "papr"}, "preset"),
    ],
)
def test_wrong_combinations_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        minillm(**wrong)


def test_the_control_without_policy_gradient_is_allowed() -> None:
    assert not minillm(policy_gradient=False).policy_gradient
