"""A MiniLLM run that was stopped ends as if it had not been: same bytes of weights, same curves."""

from __future__ import annotations

import dataclasses
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.state import restore, store
from distill.project.files import sha256_tree
from distill.runs.resume import ResumeStore, State
from tests.tiny_models import EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [7, 7, 7, 7]]
STEPS = 10
MEASURED = {"seconds", "cpu_seconds", "peak_rss_mib"}


class KilledError(Exception):
    """Stands for a signal: nothing of the run runs after it."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new_run(alpha: float = 0.3) -> OnPolicyRun:
    """Ten steps over three collections of four; nothing in it is shared with another run."""
    chosen: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "cosine", "evaluate_every": 3}
    chosen |= {"max_steps": STEPS, "rollouts": 8, "minibatch": 4, "inner_epochs": 2, "teacher_mix_alpha": alpha}
    settings = MiniLLMSettings(**chosen, lm_coef=0.1, lm_batch=2, lm_length=6)
    task = Task(PROMPTS, 8, EOS, torch.arange(200) % 11)
    student = tiny_model(spread=0.2, dtype=torch.float32)
    teacher = tiny_model(vocabulary=14, width=24, seed=1, dtype=torch.float32)
    return OnPolicyRun(student, teacher, task, MiniLLM(), settings, Execution(4, 8), 0, checksum)


def stage(kill_after: int | None = None, every: int = 3, alpha: float = 0.3) -> OnPolicyRun:
    """What the stage does: restore, train, store `every` so many steps; killed after a step."""
    states = ResumeStore("tiny/minillm", "a")
    run = new_run(alpha)
    restore(run, states)

    def after_step(run: OnPolicyRun) -> None:
        if run.step % every == 0 and run.step < STEPS:
            store(run, states)
        if run.step == kill_after:
            raise KilledError

    run.train(after_step)
    return run


@cache
def undisturbed(alpha: float = 0.3) -> OnPolicyRun:
    run = new_run(alpha)
    run.train()
    return run


def killed(after: int, every: int = 3, alpha: float = 0.3) -> None:
    with pytest.raises(KilledError):
        stage(after, every, alpha)


def assert_same(run: OnPolicyRun, whole: OnPolicyRun) -> None:
    for mine, other in zip(run.student.parameters(), whole.student.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert run.validations.found == whole.validations.found
    run.curves.write(Path("mine"))
    whole.curves.write(Path("other"))
    assert sha256_tree(Path("mine")) == sha256_tree(Path("other"))
    for phase, entries in whole.ledger.state().items():
        counts = {name: amount for name, amount in entries.items() if name not in MEASURED}
        assert {name: run.ledger.phases[phase][name] for name in counts} == counts


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_killed_run_ends_in_the_same_bytes(alpha: float) -> None:
    """Stored at steps 3, 6, 9: in the first, second and third collection, in the middle of inner epochs."""
    for kills in ([2], [5], [1, 3, 7, 8]):
        shutil.rmtree(".resume/tiny/minillm/a", ignore_errors=True)
        for step in kills:
            if (ResumeStore("tiny/minillm", "a").load() or State(0, {}, {})).step < step:
                killed(step, alpha=alpha)
        assert_same(stage(alpha=alpha), undisturbed(alpha))


@pytest.mark.parametrize("kill", [1, 4, 5, 9])
def test_a_run_goes_on_from_within_and_between_collections(kill: int) -> None:
    """After step 4 no rollouts are kept; at 1, 5 and 9 the inner epochs are under way."""
    killed(kill, every=1)
    state = ResumeStore("tiny/minillm", "a").load()
    assert state is not None and state.step == kill
    assert bool(state.tensors["rollouts"]) == (kill % 4 != 0)
    assert_same(stage(), undisturbed())


def test_a_damaged_state_gives_way_to_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    killed(7)
    states = ResumeStore("tiny/minillm", "a")
    weights = states.folder / "step-00000006/optimiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    state = states.load()
    assert state is not None and state.step == 3
    assert "step-00000006 is damaged; going back" in capsys.readouterr().err
    assert_same(stage(), undisturbed())


def test_without_an_intact_state_a_run_begins_anew() -> None:
    killed(7)
    for state in ResumeStore("tiny/minillm", "a").folder.iterdir():
        (state / "state.json").unlink()
    assert ResumeStore("tiny/minillm", "a").load() is None
    assert_same(stage(), undisturbed())


def test_the_state_of_another_fingerprint_is_not_taken() -> None:
    killed(7)
    run = new_run()
    restore(run, ResumeStore("tiny/minillm", "b"))
    assert run.step == 0


def test_a_stored_collection_comes_back_as_it_was() -> None:
    run, again = new_run(), new_run()

    def after_step(run: OnPolicyRun) -> None:
        store(run, ResumeStore("x", "a"))
        raise KilledError

    with pytest.raises(KilledError):
        run.train(after_step)
    restore(again, ResumeStore("x", "a"))
    assert run.collection is not None and again.collection is not None
    assert again.collection.prompts == run.collection.prompts
    assert torch.equal(again.collection.advantages, run.collection.advantages)
    assert torch.equal(again.collection.mask, run.collection.mask)
    for mine, other in zip(again.collection.responses, run.collection.responses, strict=True):
        for field in dataclasses.fields(mine):
            value, expected = getattr(mine, field.name), getattr(other, field.name)
            assert torch.equal(value, expected) if isinstance(value, Tensor) else value == expected, field.name
