"""Stopped and continued, a training run or the sampling of responses gives what it gives undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from distill.evaluation import resumable
from distill.evaluation.resumable import FinishedResponses, Sampled, sample_remaining
from distill.generation.decode import sample_responses
from distill.objectives import sft
from distill.project.errors import Terminated
from distill.project.progress import Progress
from distill.project.randomness import key, rng
from distill.project.settings import Settings
from distill.runs.hardware import HardwareSettings
from distill.runs.resume import ResumeStore, State, is_intact, seal
from distill.runs.stopping import stop_after_step
from distill.text.examples import Example
from distill.training.settings import SupervisedSettings
from distill.training.supervised import Lesson, train_supervised
from stages.experiment import read_experiment
from tests.tiny_pipeline import PROFILE, ROOT, edit, write_table

STEPS_AN_EPOCH, EPOCHS = 6, 3
SETTINGS = SupervisedSettings(learning_rate=1e-2, batch_size=4, epochs=EPOCHS)
HARDWARE = HardwareSettings(micro_batch=2, save_every=4)

Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unfinished state and progress are written below the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=50, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def examples() -> list[Example]:
    random = rng(0, "examples")

    def ids() -> list[int]:
        return [random.randrange(1, 50) for _ in range(random.randrange(2, 9))]

    return [Example(i, ids(), [*ids(), 0], "") for i in range(STEPS_AN_EPOCH * 4 - 2)]


def validate(model: PreTrainedModel) -> dict[str, float]:
    """A number that goes up and down, so that the best checkpoint is neither the first nor the last."""
    total = float(sum(parameter.detach().sum() for parameter in model.parameters()))
    return {"loss": total, "rouge_l": total % 7}


def train(scratch: Path, validated: bool = True) -> tuple[Weights, dict[str, list[list[float]]]]:
    """Train, or go on training; the weights and curves."""
    model = small_model()
    check = validate if validated else None
    curves = train_supervised(model, Lesson("test", examples(), SETTINGS, sft, 0, validate=check), HARDWARE, scratch)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, curves.state()


@cache
def undisturbed(validated: bool = True) -> tuple[Weights, dict[str, list[list[float]]]]:
    return train(Path("undisturbed"), validated)


@contextmanager
def at_step(wanted: int, act: Callable[[], None]) -> Iterator[None]:
    """Inside, do something after a step of training, before anything else of that step's end."""
    advance = Progress.advance

    def advance_and_act(self: Progress, count: int = 1, **shown: float) -> None:
        advance(self, count, **shown)
        if self.step == wanted:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", advance_and_act)
        yield


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def steps(scratch: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in scratch.glob("checkpoint-*"))


def assert_same(found: tuple[Weights, object], expected: tuple[Weights, object]) -> None:
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
    assert found[1] == expected[1]


# --- supervised training ------------------------------------------------------------------------------


@pytest.mark.parametrize("validated", [True, False], ids=["validated", "pretraining"])
@pytest.mark.parametrize("step", [1, 6, 8, 18], ids="step {}".format)
def test_a_stopped_run_goes_on_to_the_same_weights_and_curves(validated: bool, step: int) -> None:
    with at_step(step, lambda: send(signal.SIGTERM)), pytest.raises(Terminated):
        train(Path("stopped"), validated)
    assert steps(Path("stopped"))[-1] == step, "SIGTERM stores the step before it ends"
    assert_same(train(Path("stopped"), validated), undisturbed(validated))


class PowerCutError(Exception):
    """Ends a run at once, as if the process were gone."""


def cut() -> None:
    raise PowerCutError


def cut_off_at(step: int, scratch: Path) -> None:
    with at_step(step, cut), pytest.raises(PowerCutError):
        train(scratch)


def test_a_killed_run_goes_on_from_the_last_stored_step() -> None:
    cut_off_at(11, Path("killed"))
    assert steps(Path("killed"))[-1] == 8
    assert_same(train(Path("killed")), undisturbed())


def flip_one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_newest_state_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    cut_off_at(11, Path("killed"))
    flip_one_bit(Path("killed/checkpoint-8/optimiser-00000.safetensors"))
    with at_step(7, cut), pytest.raises(PowerCutError):
        train(Path("killed"))
    assert "killed/checkpoint-8 was cut short or is damaged; going back" in capsys.readouterr().err
    assert_same(train(Path("killed")), undisturbed())


DAMAGE: dict[str, Callable[[Path], None]] = {
    "one bit": lambda folder: flip_one_bit(folder / "weights"),
    "cut short": lambda folder: os.truncate(folder / "weights", 3),
    "a file lost": lambda folder: (folder / "deep/state.json").unlink(),
    "no seal": lambda folder: (folder / "sha256.json").unlink(),
    "half a seal": lambda folder: os.truncate(folder / "sha256.json", 9),
    "an empty seal": lambda folder: os.truncate(folder / "sha256.json", 0),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_seal_vouches_for_every_file(damage: Callable[[Path], None]) -> None:
    folder = Path("state")
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_text("weights")
    (folder / "deep/state.json").write_text("{}")
    assert not is_intact(folder)
    seal(folder)
    assert is_intact(folder)
    damage(folder)
    assert not is_intact(folder)


def test_a_state_whose_best_weights_are_damaged_is_passed_over() -> None:
    cut_off_at(17, Path("killed"))
    for best in Path("killed").glob("checkpoint-*"):
        if best.name != "checkpoint-16":
            flip_one_bit(best / "weights-00000.safetensors")
    assert_same(train(Path("killed")), undisturbed())


def test_few_states_are_kept() -> None:
    cut_off_at(18, Path("killed"))
    assert len(steps(Path("killed"))) <= 4


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_for_the_step_and_a_second_does_not(
    number: signal.Signals, raised: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    before = signal.getsignal(number)

    def work() -> None:
        with stop_after_step() as stop:
            assert not stop
            send(number)
            done.append("the step")
            assert stop
            send(number)
            done.append("never")

    with pytest.raises(raised):
        work()
    assert done == ["the step"]
    assert capsys.readouterr().err == "stopping once this step is stored; a second signal stops at once\n"
    assert signal.getsignal(number) is before


def test_leaving_in_good_order_obeys() -> None:
    done = []

    def work() -> None:
        with stop_after_step():
            send(signal.SIGINT)
            done.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["to the end"]


# --- responses ----------------------------------------------------------------------------------------


def sample(finished: FinishedResponses, batch_size: int = 4, stop_after: int | None = None) -> list[Sampled]:
    """Sample 22 responses in batches, or be cut off after so many."""
    rows = examples()
    count = [0]

    def finish(size: int) -> None:
        count[0] += size
        if count[0] == stop_after:
            cut()

    return sample_remaining(
        small_model(),
        [row.prompt_ids for row in rows],
        [key(0, row.index) for row in rows],
        finished,
        max_new_tokens=12,
        eos_id=0,
        batch_size=batch_size,
        on_batch=finish,
    )


@pytest.mark.parametrize("batch_size", [4, 3, 8])
def test_finished_responses_are_not_sampled_again(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    whole = sample(FinishedResponses("responses", "whole"))
    with pytest.raises(PowerCutError):
        sample(FinishedResponses("responses", "cut"), stop_after=12)
    finished = FinishedResponses("responses", "cut")
    assert len(finished.found) == 12

    asked: list[int] = []

    def counting(model: PreTrainedModel, prompts: list[list[int]], *rest: object, **options: object) -> object:
        asked.append(len(prompts))
        return sample_responses(model, prompts, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(resumable, "sample_responses", counting)
    assert sample(finished, batch_size) == whole
    assert sum(asked) == 10
    finished.clear()
    assert not Path(".resume/responses").exists()


def test_responses_under_other_settings_are_not_taken() -> None:
    sample(FinishedResponses("responses", "one"))
    assert not FinishedResponses("responses", "other").found


# --- what a state belongs to --------------------------------------------------------------------------


def state(step: int) -> State:
    return State(step, {"step": step}, {"student": {"weight": torch.full((4,), float(step))}, "rollouts": {}})


def test_the_newest_two_states_are_kept_and_a_damaged_one_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    states = ResumeStore("minillm@small", "print")
    for step in (1, 2, 3):
        states.save(state(step))
    assert [path.name for path in sorted(states.folder.iterdir())] == ["step-00000002", "step-00000003"]
    weights = states.folder / "step-00000003/student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    found = states.load()
    assert found is not None
    assert (found.step, found.info, float(found.tensors["student"]["weight"][0])) == (2, {"step": 2}, 2.0)
    assert "step-00000003 is damaged; going back to the state before it" in capsys.readouterr().err
    (states.folder / "step-00000002/state.json").write_text('{"step": 9, "info": {}}')
    assert states.load() is None
    states.clear()
    assert not Path(".resume/minillm@small").exists()


class Chosen(Settings):
    """Stands for a stage's own settings."""

    learning_rate: float = 1.0


def test_a_state_belongs_to_settings_inputs_and_code(folder: Path) -> None:
    (folder / "profiles").mkdir()
    (folder / "profiles/mini.yaml").write_text(PROFILE)
    shutil.copy(ROOT / "params.yaml", folder)
    write_table(folder)
    (folder / "distill").mkdir()
    (folder / "distill/losses.py").write_text("loss = 1\n")
    (folder / "input").write_text("rows")

    def fingerprint(chosen: Settings = Chosen()) -> str:  # noqa: B008  frozen
        return read_experiment("small", "sft").fingerprint(chosen, folder / "input")

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    seen.append(fingerprint(Chosen(learning_rate=2.0)))
    for file, place, value in (
        ("params.yaml", "seed", 1),
        ("params.yaml", "evaluation.sampling.top_k", 5),
        ("profiles/mini.yaml", "recipe.dtype", "bfloat16"),
        ("profiles/mini.yaml", "recipe.data.rows.student", 63),
        ("profiles/mini.yaml", "recipe.prompt.max_response_tokens", 23),
    ):
        edit(folder / file, place, value)
        seen.append(fingerprint())
    for file in ("input", "distill/losses.py"):
        (folder / file).write_text((folder / file).read_text() + "# more\n")
        seen.append(fingerprint())
    assert len(set(seen)) == len(seen) == 9

    edit(folder / "profiles/mini.yaml", "hardware.micro_batch", 1)
    assert fingerprint() == seen[-1], "another machine may go on with it"
