"""Intervals and tests against slow loops, closed forms and enumerations."""

from __future__ import annotations

import math
import random
from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest

from distill.project.errors import DataError
from distill.scoring.paired import compare_scores, compare_statistics
from distill.scoring.statistics import bootstrap_interval, compare, compare_statistic, ratio

FEW = "too few prompts"


def scores(seed: int, seeds: int, examples: int, shift: float = 0.0) -> list[list[float]]:
    """S × N made-up scores: examples differ much, seeds little."""
    rng = random.Random(f"scores {seed}")
    levels = [random.Random(f"level {n}").uniform(20, 80) for n in range(examples)]
    return [[level + shift + rng.gauss(0, 5) for level in levels] for _ in range(seeds)]


def test_interval_agrees_with_a_slow_loop() -> None:
    matrix = scores(0, seeds=4, examples=30)
    rng = random.Random(1)
    means = []
    for _ in range(5_000):
        rows = rng.choices(matrix, k=4)
        columns = rng.choices(range(30), k=30)
        means.append(fmean(row[column] for row in rows for column in columns))
    expected = np.quantile(means, [0.025, 0.975])
    width = expected[1] - expected[0]
    assert np.abs(np.array(bootstrap_interval(matrix, seed=3)) - expected).max() < 0.05 * width


def test_interval_of_one_seed_is_that_of_the_mean() -> None:
    matrix = scores(0, seeds=1, examples=400)
    low, high = bootstrap_interval(matrix, seed=0)
    error = 1.96 * stdev(matrix[0]) / math.sqrt(400)
    assert low == pytest.approx(fmean(matrix[0]) - error, abs=0.1 * error)
    assert high == pytest.approx(fmean(matrix[0]) + error, abs=0.1 * error)


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = [[50.0 + n % 3 for n in range(60)]] * 5
    apart = [[value + 10 * s for value in row] for s, row in enumerate(alike)]
    low, high = bootstrap_interval(alike, seed=0)
    wide_low, wide_high = bootstrap_interval(apart, seed=0)
    assert wide_high - wide_low > 5 * (high - low)


def test_constant_scores_have_a_point_for_an_interval() -> None:
    assert bootstrap_interval([[5.0] * 4] * 2, seed=0) == (5.0, 5.0)


def test_comparison_by_hand() -> None:
    # differences of the means over seeds: 1, 3, 2, 6 -> mean 3, sample variance 14/3
    a = [[2.0, 5.0, 4.0, 9.0], [4.0, 5.0, 4.0, 7.0]]
    b = [[2.0, 2.0, 2.0, 2.0]]
    compared = compare(a, b, seed=0)
    assert compared.difference == pytest.approx(3.0)
    assert compared.standard_error == pytest.approx(math.sqrt(14 / 3) / 2)
    # of the 16 sign patterns only +,+,+,+ and -,-,-,- reach |12|: p = 1/8, too few prompts to tell
    assert compared.p_value == pytest.approx(1 / 8, abs=0.015)
    assert compared.interval[0] > 0
    assert compared.verdict == "too few prompts"


def test_p_value_agrees_with_all_sign_patterns() -> None:
    rng = random.Random(0)
    differences = [rng.gauss(1.0, 2.0) for _ in range(12)]
    observed = abs(sum(differences))
    patterns = list(product((-1, 1), repeat=12))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    expected = sum(total >= observed - 1e-9 for total in sums) / len(patterns)
    compared = compare([differences], [[0.0] * 12], seed=0, draws=40_000)
    assert compared.p_value == pytest.approx(expected, abs=0.01)


def test_verdicts() -> None:
    worse, same, better = (scores(k, 5, 200, shift) for k, shift in ((1, -5.0), (2, 0.0), (3, 5.0)))
    assert compare(better, same, seed=0).verdict == "better"
    assert compare(worse, same, seed=0).verdict == "worse"
    assert compare(scores(4, 5, 200), same, seed=0).verdict == "not distinguishable"


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    a, b = scores(1, 5, 200, shift=3.0), scores(2, 5, 200)
    assert bootstrap_interval(a, seed=0)[0] < bootstrap_interval(b, seed=0)[1]
    compared = compare(a, b, seed=0)
    assert compared.verdict == "better"
    assert compared.interval[0] < 3.0 < compared.interval[1]


def test_swapping_the_models_swaps_the_verdict() -> None:
    a, b = scores(1, 3, 50, shift=4.0), scores(2, 3, 50)
    one, other = compare(a, b, seed=0), compare(b, a, seed=0)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.verdict, other.verdict) == ("better", "worse")


def test_a_model_is_not_distinguishable_from_itself() -> None:
    compared = compare(scores(1, 5, 40), scores(1, 5, 40), seed=0)
    assert (compared.difference, compared.standard_error, compared.p_value) == (0.0, 0.0, 1.0)
    assert compared.verdict == "not distinguishable"


@pytest.mark.parametrize(("differing", "alike", "verdict"), [(1, 0, FEW), (5, 0, FEW), (5, 100, FEW), (6, 0, "better")])
def test_a_test_that_cannot_settle_anything_says_so(differing: int, alike: int, verdict: str) -> None:
    # The smallest p-value is 2 / 2^5 = 0.06 of five prompts, 2 / 2^6 = 0.03 of six; those that are alike add nothing.
    a, b = [90.0] * differing + [50.0] * alike, [10.0] * differing + [50.0] * alike
    assert compare([a], [b], seed=0).verdict == verdict
    columns = {
        name: np.stack([np.array(scores), np.ones(len(scores))], axis=1) for name, scores in (("a", a), ("b", b))
    }
    assert compare_statistic(columns["a"], columns["b"], ratio, seed=0).verdict == verdict
    others = compare_scores({"kd": [a], "sft": [b], "minillm": [a]}, lambda model: 0)
    assert (others["kd"]["sft"]["verdict"], others["minillm"]["sft"]["verdict"]) == (verdict, verdict)
    statistics = compare_statistics({"kd": columns["a"], "sft": columns["b"]}, ratio, lambda model: 0)
    assert statistics["kd"]["sft"]["verdict"] == verdict


def test_false_alarms_are_as_rare_as_promised() -> None:
    alarms = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        a, b = rng.normal(50, 20, (3, 60)), rng.normal(50, 20, (3, 60))
        alarms += compare(a.tolist(), b.tolist(), seed=trial, draws=500).verdict != "not distinguishable"
    assert alarms <= 22  # 5 % of 200 is 10; 22 or more would happen once in 2,000 times


def test_same_seed_same_numbers() -> None:
    a, b = scores(1, 5, 40), scores(2, 5, 40)
    assert compare(a, b, seed=7) == compare(a, b, seed=7)
    assert bootstrap_interval(a, seed=7) == bootstrap_interval(a, seed=7)
    assert bootstrap_interval(a, seed=7) != bootstrap_interval(a, seed=8)


def test_unfit_scores_are_refused() -> None:
    with pytest.raises(DataError, match="3 prompts cannot be compared with 2"):
        compare([[1.0, 2.0, 3.0]], [[1.0, 2.0]], seed=0)
    unfit: list[list[list[float]]] = [[[1.0], [1.0, 2.0]], [], [[]]]
    for ragged in unfit:
        with pytest.raises(DataError, match="one row of example scores"):
            bootstrap_interval(ragged, seed=0)
