"""The studies of MiniLLM's parts: every arm can be run, rates are climbed, moments are those of the definition."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import study
from benchmarks.ablations import ARMS, HEAD, STEPS, profile_section, row
from benchmarks.gradient_variance import BATCH, BATCHES, GROUPS, Moments, settings_of
from benchmarks.kept_runs import RATES, Arm, Runs
from benchmarks.short_ablations import CHOSEN
from benchmarks.toy_runs import ToyOutcome, ToyRuns
from benchmarks.workspace import ROOT, curve
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import OnPolicyRun
from distill.project.errors import DivergedError
from distill.project.files import read_json
from stages import evalset, respond, rouge
from tests.tiny_pipeline import MINI, SMALL, edit, in_folder
from tests.training_stages import minillm

pytest_plugins = ["tests.stage_fixtures"]


@pytest.fixture
def answerable(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny project up to the student's start, with an evaluation set; the current folder."""
    shutil.copytree(ROOT / "evalsets", project / "evalsets")
    in_folder(project)(evalset.main, "toy_id")
    monkeypatch.chdir(project)
    return project


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


def outcome(valid: float, **values: float) -> ToyOutcome:
    known = dict.fromkeys((f.name for f in fields(ToyOutcome)), 10.0) | {"test": valid + 1, **values}
    return ToyOutcome(**{**known, "valid": [0.0, valid, 0.5], "best_step": 48, "collapse": ""})  # type: ignore[arg-type]


def empty(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs.jsonl", ARMS, profile_section(), "these")


def climb(runs: Runs, name: str, values: dict[int, dict[float, float]]) -> list[tuple[float, int]]:
    """Make the runs that an arm wants before it has a rate, with these outcomes by seed and rate; which they were."""
    made = []
    while runs.best_rate(name) is None:
        assert row(name, runs) is None
        for _, rate, seed in runs.wanted(name):
            made.append((rate, seed))
            runs.keep(name, rate, seed, outcome(values[seed][rate]))
    return made


def test_rates_are_climbed_until_both_neighbours_are_worse(tmp_path: Path) -> None:
    runs = empty(tmp_path)
    score = dict(zip(RATES, (1.0, 2.0, 3.0, 5.0, 9.0, 4.0), strict=True))
    made = climb(runs, "default", {0: score})
    assert runs.best_rate("default") == RATES[4]
    assert made == [(rate, 0) for rate in RATES[2:]]  # never the smallest two
    line = row("default", runs)
    assert (
        line is not None
        and "| default | – | 1 | 0.008 | 10.0 | – | – | 9.0 | – | – | 48 | 10.0 ± 10.0 | 10.0 | 10.00 | 0.5 |" in line
    )
    assert line.count(" | ") == HEAD.count(" | ")
    assert runs.wanted("default") == [("default", RATES[4], seed) for seed in (1, 2, 3, 4)]
    assert runs.wanted("default", 1) == []


def test_rates_that_are_close_on_one_seed_are_told_apart_by_two(tmp_path: Path) -> None:
    runs = empty(tmp_path)
    first = dict(zip(RATES, (1.0, 2.0, 6.0, 5.0, 3.0, 1.0), strict=True))
    second = dict(zip(RATES, (1.0, 2.0, 5.0, 6.5, 9.0, 1.0), strict=True))
    made = climb(runs, "default", {0: first, 1: second})
    assert made == [(RATES[2], 0), (RATES[3], 0), (RATES[1], 0), (RATES[2], 1), (RATES[3], 1), (RATES[4], 0)]
    assert runs.best_rate("default") == RATES[3]  # 5.75 against 5.5; the higher one is not close on the first seed


class AtOnce(Executor):
    """Runs what it is given before it returns, so that the order is always the same."""

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*given, **named))
        return future


def test_a_study_keeps_its_order_and_no_worker_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"first": Arm(seeds=(0, 1)), "second": Arm({"teacher_mix_alpha": 0.0}, seeds=(0, 1))}
    began: list[tuple[str, float, int]] = []

    def measure(settings: MiniLLMSettings, start: str, seed: int, prompts: str) -> ToyOutcome:
        name = "first" if settings.teacher_mix_alpha else "second"
        began.append((name, settings.learning_rate, seed))
        return outcome(9.0 if settings.learning_rate == 4e-3 else 1.0)

    monkeypatch.setattr(study, "measure", measure)
    runs = Runs(tmp_path / "runs.jsonl", arms, profile_section(), "these")
    study.complete(AtOnce(), 2, runs, list(arms))
    assert began == [
        *[("first", 2e-3, 0), ("first", 4e-3, 0)],
        *[("first", 8e-3, 0), ("second", 2e-3, 0)],  # the third rate depends on the first two, and leaves a worker
        *[("first", 4e-3, 1), ("second", 4e-3, 0)],
        *[("second", 8e-3, 0), ("second", 4e-3, 1)],
    ]
    assert not [job for name in arms for job in runs.wanted(name)]


def test_arms_are_compared_seed_by_seed_with_the_arm_they_name(tmp_path: Path) -> None:
    runs = empty(tmp_path)
    name = "unwhitened, without length norm"
    for arm, scores in (("unwhitened", (10.0, 20.0, 30.0)), (name, (11.0, 23.0, 32.0))):
        for rate in ARMS[arm].rates:
            runs.keep(arm, rate, 0, outcome(1.0))
        for seed, score in enumerate(scores):
            runs.keep(arm, RATES[2], seed, outcome(9.0, test=score))
    assert runs.difference("unwhitened", "test") == "–"  # there is no default yet
    assert runs.wanted("unwhitened") == [("default", RATES[2], seed) for seed in (0, 1, 2)]  # at the same rate
    assert not runs.wanted(name)
    assert runs.difference(name, "test") == "+2.0 ± 0.6"  # 1, 3, 2: deviation 1 over the root of 3
    assert runs.difference(name, "test", same_rate=True) == "+2.0 ± 0.6"
    for seed, score in enumerate((12.0, 12.0, 12.0)):
        runs.keep("unwhitened", RATES[3], seed, outcome(9.5 if seed < 2 else 1.0, test=score))
    assert runs.best_rate("unwhitened") == RATES[3]
    assert runs.difference(name, "test") == "+10.0 ± 6.1"  # -1, 11, 20, each at its own rate
    assert runs.difference(name, "test", same_rate=True) == "+2.0 ± 0.6"


def test_a_kept_run_is_found_again_until_what_it_follows_from_changes(tmp_path: Path) -> None:
    runs, kept = empty(tmp_path), outcome(7.0)
    runs.keep("alpha 0.4", 2e-3, 1, kept)
    assert empty(tmp_path).find("alpha 0.4", 2e-3, 1) == kept
    assert Runs(runs.path, ARMS, profile_section()).find("alpha 0.4", 2e-3, 1) == kept  # inputs: of the newest run
    renamed = {"mixed more": ARMS["alpha 0.4"]}
    assert Runs(runs.path, renamed, profile_section(), "these").find("mixed more", 2e-3, 1) == kept
    others: list[tuple[dict[str, Arm], dict[str, object], str]] = [
        ({"alpha 0.4": Arm({"teacher_mix_alpha": 0.41})}, {}, "these"),
        ({"alpha 0.4": Arm(ARMS["alpha 0.4"].settings, start="base")}, {}, "these"),
        ({"alpha 0.4": Arm(ARMS["alpha 0.4"].settings, prompts="long")}, {}, "these"),
        (ARMS, {"max_steps": 241}, "these"),
        (ARMS, {}, "others"),
    ]
    for arms, changes, inputs in others:
        other = Runs(runs.path, arms, {**profile_section(), **changes}, inputs)
        assert other.find("alpha 0.4", 2e-3, 1) is None


def test_a_run_in_this_process_comes_to_the_numbers_of_the_stages(
    answerable: Path,
) -> None:
    """Another rate, mixing and seed than the profile's; the stages get them by way of profile and table."""
    changes, seed, stage = {"learning_rate": 2e-2, "teacher_mix_alpha": 0.5}, 3, in_folder(answerable)
    runs = ToyRuns("small")
    found = runs.run(runs.settings(changes), Path("runs/small/init"), seed)
    for name, value in changes.items():
        edit(answerable / MINI, f"{SMALL}.minillm.{name}", value)
    edit(answerable / MINI, "hardware.on_collapse", "ignore")
    edit(answerable / "params.yaml", "seed", seed)
    stage(minillm.main, "small", "minillm")
    stage(respond.main, "small", "minillm", "toy_id")
    stage(rouge.main, "small", "minillm", "toy_id")
    assert found.valid == curve(answerable, "minillm", "valid_rouge_l", "small")
    assert len(set(found.valid)) == 3, "training changes nothing here"
    assert found.rollout_kl == curve(answerable, "minillm", "reverse_kl", "small")[-1]
    assert found.best_step == read_json(answerable / "runs/small/minillm/meta.json")["best_step"]
    score = read_json(answerable / "scores/small/minillm/toy_id.json")
    assert (found.test, found.tokens) == (score["rouge_l"]["mean"], score["response_tokens"]["mean"])
    assert found.test > 0


def test_a_run_whose_numbers_fail_has_its_best_weights_as_outcome(
    answerable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: OnPolicyRun, loss: float, chosen: list[int], norm: float) -> None:
        if run.step == 4:
            raise DivergedError("step 4: the loss is nan; lower `learning_rate`", [])

    runs, start = ToyRuns("small"), Path("runs/small/init")
    teacher = {name: weights.clone() for name, weights in runs.teacher.state_dict().items()}
    whole = runs.run(runs.settings({"max_steps": 3}), start, 0)
    monkeypatch.setattr(OnPolicyRun, "_require_finite", fail)
    failed = runs.run(runs.settings({"schedule": "constant"}), start, 0)
    assert failed.collapse == "step 4: the loss is nan"
    assert len(failed.valid) == 2 and failed.best_step in (0, 3)
    assert (failed.valid, failed.test, failed.kl) == (whole.valid, whole.test, whole.kl)  # the three steps are the same
    assert all(torch.equal(weights, teacher[name]) for name, weights in runs.teacher.state_dict().items())


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
