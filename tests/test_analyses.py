"""The analyses' arithmetic, worked out by hand: exposure bias, divergences, calibration, lengths, paired tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.analyses import calibration, divergence, exposure, lengths, losses
from distill.evaluation.predictions import predict, read_predictions, write_predictions
from distill.evaluation.traces import Trace, Traces, read_traces, write_traces
from distill.project.errors import DataError
from distill.scoring import statistics
from distill.scoring.paired import compare_scores, compare_statistics, turned
from distill.scoring.statistics import compare_statistic, ratio, statistic_interval


def traces_of(*forward: Sequence[float], seed: int = 10) -> list[Trace]:
    """One trace for each prompt, with these forward divergences and twice as large reverse ones."""
    return [Trace(i, seed, [2 * value for value in each], list(each)) for i, each in enumerate(forward)]


# --- exposure bias ------------------------------------------------------------------------------------


def test_excess_error_is_a_ratio_of_sums_up_to_l() -> None:
    own, teacher = traces_of([1.0, 2.0, 3.0], [1.0, 1.0]), traces_of([1.0, 1.0], [1.0, 1.0, 1.0])
    curve = exposure.exposure({"sft": {"own": own, "teacher": teacher}}, seed=0)["models"]["sft"]["curve"]["error"]
    # R(l) = 2, 5, 8 and l eps(l) = 2, 4, 5: the sums run to l in both, and an ended response adds nothing
    assert curve == [0.0, 25.0, 60.0]


def test_error_a_token_leaves_length_out() -> None:
    own, teacher = traces_of([1.0] * 8, [1.0] * 4), traces_of([1.0] * 3, [1.0] * 3)
    found = exposure.exposure({"kd": {"own": own, "teacher": teacher}}, seed=0)["models"]["kd"]
    assert found["error"]["mean"] == 100.0
    assert found["error_a_token"] == {"mean": 0.0, "ci95": [0.0, 0.0], "prompts": 2}


def test_no_error_along_the_teachers_text_is_no_excess() -> None:
    still = traces_of([0.0, 0.0])
    found = exposure.exposure({"kd": {"own": still, "teacher": still}}, seed=0)["models"]["kd"]
    assert found["curve"]["error"] == [0.0, 0.0]


def as_the_released_code_counts(traces: Sequence[Trace], prompts: int, length: int) -> float:
    """The mean over prompts of the summed per-position means over samples that go on, from the second token; slowly."""
    whole = 0.0
    for prompt in range(prompts):
        for t in range(1, length):
            going_on = [trace.forward_kl[t] for trace in traces if trace.prompt == prompt and len(trace.forward_kl) > t]
            if going_on:
                whole += sum(going_on) / len(going_on)
    return whole / prompts


@pytest.mark.slow
def test_released_error_is_that_of_a_slow_loop() -> None:
    rng = random.Random(3)
    own, teacher = noisy(rng, 2.0, prompts=20), noisy(rng, 1.0, prompts=20)
    found = exposure.exposure({"kd": {"own": own, "teacher": teacher}}, seed=0)["models"]["kd"]["error_as_released"]
    ratio = as_the_released_code_counts(own, 20, 9) / as_the_released_code_counts(teacher, 20, 9)
    assert found["mean"] == pytest.approx(100 * (ratio - 1), abs=1e-3)
    assert found["ci95"][0] < found["mean"] < found["ci95"][1]


def test_released_error_may_differ_in_sign() -> None:
    # one sample of two goes on: its tokens weigh in full there, by half here; and the first token is left out
    own = [*traces_of([3.0, 2.0, 2.0], seed=10), *traces_of([3.0], seed=20)]
    teacher = [*traces_of([4.0, 1.0, 1.0], seed=10), *traces_of([4.0, 1.0, 1.0], seed=20)]
    found = exposure.exposure({"kd": {"own": own, "teacher": teacher}}, seed=0)["models"]["kd"]
    assert found["error"]["mean"] == pytest.approx(100 * (10 / 12 - 1), abs=1e-4)
    assert found["error_as_released"]["mean"] == 100.0
    assert found["curve"]["error"][-1] == pytest.approx(found["error"]["mean"], abs=1e-3)


def noisy(rng: random.Random, level: float, prompts: int = 60) -> list[Trace]:
    return [
        Trace(i, seed, values, values)
        for seed in (10, 20)
        for i in range(prompts)
        for values in [[level * rng.random() for _ in range(rng.randint(3, 9))]]
    ]


def test_exposure_is_compared_on_the_same_prompts() -> None:
    rng = random.Random(0)
    teacher = noisy(rng, 1.0)
    traces: dict[str, Traces] = {
        "sft": {"own": noisy(rng, 2.0), "teacher": teacher},
        "minillm": {"own": noisy(rng, 1.0), "teacher": teacher},
        "kd": {"own": noisy(rng, 1.0), "teacher": teacher},
    }
    found = exposure.exposure(traces, seed=0)
    assert {model: each["error"]["verdict"] for model, each in found["against"]["minillm"].items()} == {
        "sft": "better",
        "kd": "not distinguishable",
    }
    means = {model: each["error"]["mean"] for model, each in found["models"].items()}
    expected = means["minillm"] - means["sft"]
    assert found["against"]["minillm"]["sft"]["error"]["difference"] == pytest.approx(expected, abs=1e-3)
    for each in found["models"].values():
        low, high = each["error"]["ci95"]
        assert low < each["error"]["mean"] < high
        assert each["curve"]["low"][-1] == pytest.approx(low, abs=1e-3)


# --- divergences --------------------------------------------------------------------------------------


def test_divergences_are_means_over_tokens_and_not_over_responses(tmp_path: Path) -> None:
    traces: dict[str, Traces] = {"sft": {"own": traces_of([1.0], [4.0, 4.0, 4.0]), "teacher": traces_of([3.0], [5.0])}}
    found = divergence.summarize(traces, seed=0)["models"]["sft"]
    assert found["forward_kl_on_own_samples"]["mean"] == 13 / 4
    assert found["reverse_kl"]["mean"] == 26 / 4
    assert found["forward_kl"]["mean"] == 4.0
    assert found["reverse_kl_on_teacher_samples"]["mean"] == 8.0
    write_traces(tmp_path / "traces.parquet", traces["sft"])
    assert read_traces(tmp_path / "traces.parquet") == traces["sft"]
    with pytest.raises(DataError, match="run `dvc repro`"):
        read_traces(tmp_path / "absent.parquet")


def test_lower_divergence_is_better() -> None:
    rng = random.Random(1)
    traces: dict[str, Traces] = {
        name: {"own": noisy(rng, level), "teacher": noisy(rng, 1.0)} for name, level in (("minillm", 0.5), ("sft", 1.0))
    }
    found = divergence.summarize(traces, seed=0)["against"]["minillm"]["sft"]
    assert found["reverse_kl"]["verdict"] == "better"
    assert found["reverse_kl"]["difference"] < 0
    assert found["forward_kl"]["verdict"] == "not distinguishable"


# --- calibration --------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    # two answers at 0.9 of which one is right, two at 0.6 of which both are: gaps |1 - 1.8| and |2 - 1.2| over 4
    shares = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    predictions = predict(np.log(0.5 * shares), [0, 0, 0, 1])
    assert predictions.correct.tolist() == [1, 0, 1, 1]
    found = calibration.summarize({"sft": predictions}, seed=0)["models"]["sft"]
    assert found["accuracy"]["mean"] == 75.0
    assert found["ece"]["mean"] == pytest.approx(40.0)
    assert found["word_mass"]["mean"] == pytest.approx(50.0)
    assert found["reliability"] == [
        {"confidence": 0.6, "accuracy": 1.0, "count": 2},
        {"confidence": 0.9, "accuracy": 0.5, "count": 2},
    ]


def test_words_that_a_model_finds_improbable_still_have_shares() -> None:
    predictions = predict(np.array([[-900.0, -900.0 - np.log(3)]]), [0])
    assert predictions.confidence[0] == pytest.approx(0.75)
    assert predictions.word_mass[0] == 0.0


def test_confidence_falls_into_the_bin_that_ends_at_it() -> None:
    assert calibration.bins_of(np.array([0.0, 0.1, 0.101, 0.5, 0.99, 1.0])).tolist() == [0, 0, 1, 4, 9, 9]


def test_sure_and_wrong_is_worse_calibrated() -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, 300)
    right = np.where(rng.random(300) < 0.7, answers, 1 - answers)
    honest, sure = (np.log(np.where(right[:, None] == [0, 1], share, 1 - share)) for share in (0.7, 0.999))
    predictions = {
        "minillm": predict(honest, answers.tolist()),
        "kd": predict(sure, answers.tolist()),
    }
    found = calibration.summarize(predictions, seed=0)
    assert found["models"]["minillm"]["ece"]["mean"] < 6 < 25 < found["models"]["kd"]["ece"]["mean"]
    assert found["against"]["minillm"]["kd"]["ece"]["verdict"] == "better"
    assert found["against"]["minillm"]["kd"]["accuracy"]["verdict"] == "not distinguishable"


# --- lengths ------------------------------------------------------------------------------------------


def test_rouge_by_reference_length() -> None:
    scores = np.array([[10.0, 20.0, 30.0, 40.0], [30.0, 40.0, 50.0, 60.0]])
    tokens = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    answered = lengths.Answered(scores, tokens, [["a b c d a b c d", "x", "x", "x"]] * 2)
    found = lengths.summarize({"sft": answered}, [5, 6, 10, 11], seed=0)
    buckets = found["models"]["sft"]["rouge_l"]
    assert {name: entry["mean"] for name, entry in buckets.items()} == {"0-5": 20.0, "6-10": 35.0, "11+": 50.0}
    assert found["references"] == {"examples": {"0-5": 1, "6-10": 2, "11+": 1}, "p10": 6.3, "p50": 9.0, "p90": 11.7}
    # 5 four-grams, of which the fifth occurred before; answers of one word have no say
    assert found["models"]["sft"]["repeated_4"] == {"mean": 20.0, "ci95": [20.0, 20.0], "prompts": 1}
    assert found["models"]["sft"]["response_tokens"]["mean"] == 2.5


def test_a_bucket_without_references_is_left_out() -> None:
    answered = lengths.Answered(np.array([[10.0, 20.0]]), np.array([[1.0, 2.0]]), [["a", "b"]])
    found = lengths.summarize({"sft": answered, "minillm": answered}, [30, 40], seed=0)
    assert list(found["models"]["sft"]["rouge_l"]) == ["11+"]
    assert "repeated_4" not in found["models"]["sft"]
    assert found["against"]["minillm"]["sft"]["11+"]["verdict"] == "too few prompts"


# --- losses and statistics ----------------------------------------------------------------------------


def test_lower_loss_is_better() -> None:
    rng = random.Random(0)
    worse = [1 + rng.random() for _ in range(40)]
    found = losses.summarize({"minillm": [value - 0.5 for value in worse], "sft": worse}, seed=0)
    assert found["against"]["minillm"]["sft"]["verdict"] == "better"
    assert found["models"]["sft"]["mean"] == pytest.approx(sum(worse) / 40, abs=1e-4)


def ratio_columns(seed: int, level: float, prompts: int = 80) -> statistics.Array:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 30, prompts)
    return np.stack([tokens * (level + rng.normal(0, 0.3, prompts)), tokens], axis=1)


def test_interval_of_a_ratio_holds_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        low, high = statistic_interval(ratio_columns(seed, 1.0), ratio, seed, draws=400)
        hits += low <= 1.0 <= high
    assert 175 <= hits <= 198


def test_comparison_of_ratios_is_antisymmetric_and_sees_a_difference() -> None:
    a, b = ratio_columns(0, 1.0), ratio_columns(1, 1.3)
    forth, back = compare_statistic(a, b, ratio, 0), compare_statistic(b, a, ratio, 0)
    assert (forth.verdict, back.verdict) == ("worse", "better")
    assert forth.difference == -back.difference
    assert compare_statistic(a, b, ratio, 0, lower_is_better=True).verdict == "better"
    assert forth.difference == pytest.approx(ratio(a.sum(axis=0)) - ratio(b.sum(axis=0)))
    assert compare_statistic(a, a, ratio, 0).p_value == 1.0
    with pytest.raises(DataError, match="80 prompts cannot be compared with 79"):
        compare_statistic(a, b[:-1], ratio, 0)


def test_draws_that_are_kept_are_those_of_a_fresh_generator() -> None:
    columns = ratio_columns(3, 1.0)
    generator = np.random.default_rng(7)
    counts = [generator.multinomial(80, np.full(80, 1 / 80), size=500) for _ in range(2)]
    expected = np.quantile([ratio(own @ columns) for own in counts], [0.025, 0.975])
    for _ in range(2):
        assert statistic_interval(columns, ratio, 7, draws=1000).tolist() == expected.tolist()
    generator, means = np.random.default_rng(8), []
    scores = np.arange(10.0).reshape(2, 5)
    for _ in range(2):
        by_example = generator.multinomial(5, np.full(5, 0.2), size=500)
        by_seed = generator.multinomial(2, np.full(2, 0.5), size=500)
        means.append(np.einsum("de,se,ds->d", by_example, scores, by_seed) / 10)
    low, high = statistics.bootstrap_interval(scores.tolist(), 8, draws=1000)
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]))


@pytest.mark.parametrize("lower", [False, True])
def test_pairs_that_share_draws_are_compared_as_one_pair_is(lower: bool) -> None:
    columns = {"a": ratio_columns(0, 1.0), "minillm": ratio_columns(1, 1.2), "b": ratio_columns(2, 1.1)}
    found = compare_statistics(columns, ratio, lambda model: 5, lower)
    assert list(found) == list(columns)
    for a, b in (("a", "b"), ("minillm", "a"), ("minillm", "b")):
        alone = compare_statistic(columns[a], columns[b], ratio, 5, lower_is_better=lower)
        assert found[a][b] == statistics.comparison_entry(alone)
        assert found[b][a] == statistics.comparison_entry(turned(alone))
        assert found[b][a]["difference"] == -found[a][b]["difference"]
    rows = {name: [each[:, 0].tolist(), each[:, 1].tolist()] for name, each in columns.items()}
    scored = compare_scores(rows, lambda model: 5, lower)
    for a, b in (("a", "b"), ("minillm", "a")):
        alone = statistics.compare(rows[a], rows[b], 5, lower_is_better=lower)
        assert scored[a][b] == statistics.comparison_entry(alone)


def test_a_comparison_read_from_the_other_side() -> None:
    compared = statistics.Comparison(0.0, (-1.0, 2.0), 0.5, 0.3, "not distinguishable")
    assert str(turned(compared).difference) == "0.0"
    assert turned(compared).interval == (-2.0, 1.0)
    assert turned(replace(compared, verdict="worse")).verdict == "better"


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    found = predict(np.log([[0.3, 0.1], [0.2, 1 / 3]]), [0, 0], prompts_too_long=2)
    write_predictions(tmp_path / "p.json", {"a": found})
    [back] = read_predictions(tmp_path / "p.json").values()
    assert back.prompts_too_long == 2
    for part in ("correct", "confidence", "word_mass"):
        assert getattr(back, part).tolist() == getattr(found, part).tolist()


def test_equal_models_are_rarely_told_apart() -> None:
    told = sum(
        compare_statistic(ratio_columns(2 * s, 1.0), ratio_columns(2 * s + 1, 1.0), ratio, s, draws=400).verdict
        != "not distinguishable"
        for s in range(100)
    )
    assert told <= 10
