"""Out of memory: a batch is halved, the update is the same, and somebody is told."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.generation import decode
from distill.generation.decode import sample_responses
from distill.objectives import kd
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy import passes, update
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.parallel import launch
from distill.parallel.group import EXIT_OUT_OF_MEMORY
from distill.parallel.launch import HALVINGS, fitting_micro_batch, smaller_next_time
from distill.runs.hardware import HardwareSettings
from distill.training import supervised
from distill.training.objective import with_objective
from distill.training.settings import SupervisedSettings
from distill.training.supervised import Lesson, train_supervised
from tests.test_engine_supervised import examples
from tests.tiny_models import EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [7, 7, 7, 7], [2, 2]]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def room_for(most: int, compute: Any, sizes: list[int]) -> Any:
    """`compute` as on a device that has room for `most` sequences; half of the work is done before it fails."""

    def limited(model: PreTrainedModel, ids: Tensor, *rest: Any, **named: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
        return compute(model, ids, *rest, **named)

    return limited


def distilled(micro_batch: int, **given: Any) -> OnPolicyRun:
    chosen: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 0, "max_steps": 6, "evaluate_every": 3}
    settings = MiniLLMSettings(**chosen, rollouts=16, minibatch=8, inner_epochs=2, lm_coef=0.1, lm_batch=4, lm_length=6)
    task = Task(PROMPTS, 8, EOS, torch.arange(200) % 11)
    run = OnPolicyRun(
        tiny_model(spread=0.2),
        tiny_model(vocabulary=14, width=24, seed=1),
        task,
        MiniLLM(),
        settings,
        Execution(micro_batch, 16, **given),
        0,
        checksum,
    )
    run.train()
    return run


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_minillm_halves_its_micro_batch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The second micro-batch fails, when gradients of the first are there already: these must not count twice."""
    whole = distilled(8)
    sizes: list[int] = []
    calls = iter(range(10**6))
    compute = passes.response_hidden

    def limited(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
        sizes.append(len(ids))
        if len(ids) > 2 and next(calls) % 2:
            raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
        return compute(model, ids, positions)

    monkeypatch.setattr(update, "response_hidden", limited)
    run = distilled(4)
    assert sizes == [4, 4] + [2] * 4 * 6
    same_weights(run.student, whole.student)
    assert run.curves.points["loss"] == whole.curves.points["loss"]
    assert [value for _, value in run.curves.points["micro_batch"]] == [2] * 6
    assert "micro_batch" not in whole.curves.points
    assert capsys.readouterr().err.count("out of memory: the micro-batch is 2 from here on") == 1
    # Tokens are counted once, however often they were computed.
    assert run.ledger.phases["update"]["tokens"] == whole.ledger.phases["update"]["tokens"]


def test_one_at_a_time_is_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "response_hidden", room_for(0, passes.response_hidden, []))
    with pytest.raises(torch.OutOfMemoryError):
        distilled(4)


def test_checkpointed_layers_change_nothing() -> None:
    same_weights(distilled(4, gradient_checkpointing=True).student, distilled(4).student)


def test_decoding_halves_its_batch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    wanted: dict[str, Any] = {"max_new_tokens": 6, "eos_id": EOS}
    whole = sample_responses(model, PROMPTS, range(6), batch_size=6, **wanted)
    batch, sizes = decode._Batch, []

    class Limited(batch):  # type: ignore[misc, valid-type]
        def run(self) -> Any:
            sizes.append(len(self.rows))
            if len(self.rows) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
            return super().run()

    monkeypatch.setattr(decode, "_Batch", Limited)
    parts: list[int] = []
    found = sample_responses(model, PROMPTS, range(6), batch_size=6, on_batch=parts.append, **wanted)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert parts == [1] * 6
    assert [r.ids for r in found] == [r.ids for r in whole]
    assert "the decoding batch is 1 from here on" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [4, "auto"])
def test_supervised_training_halves_its_micro_batch(wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """KD on 20 rows in batches of 8, whose last is short; only some of the passes fail."""
    settings = with_objective(SupervisedSettings, kd)(learning_rate=1e-2, batch_size=8, epochs=2, max_grad_norm=0.05)

    def trained(micro_batch: Any) -> tuple[PreTrainedModel, Any]:
        model, teacher = tiny_model(spread=0.2), tiny_model(vocabulary=14, width=24, seed=1)
        hardware = HardwareSettings(micro_batch=micro_batch)
        scratch = Path(f"scratch-{micro_batch}-{len(list(Path().iterdir()))}")
        curves = train_supervised(model, Lesson("test", examples(20), settings, kd, 0, teacher), hardware, scratch)
        return model, curves

    whole, expected = trained(2)
    sizes: list[int] = []
    calls = iter(range(10**6))
    compute = supervised.response_logits

    def limited(model: PreTrainedModel, input_ids: Tensor, kept: Tensor) -> Tensor:
        sizes.append(len(input_ids))
        found = compute(model, input_ids, kept)
        if len(input_ids) > 2 and next(calls) % 2 == (wanted == 4):
            found.register_hook(out_of_memory)  # in the backward pass
        return found

    def out_of_memory(gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")

    monkeypatch.setattr(supervised, "response_logits", limited)
    model, curves = trained(wanted)
    assert sizes[0] == (4 if wanted == 4 else 8) and set(sizes[-4:]) == {2}
    same_weights(model, whole)
    assert curves.points["loss"] == expected.points["loss"]


def test_processes_that_share_a_pass_begin_again_with_half(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = HardwareSettings(micro_batch="auto")
    assert fitting_micro_batch(hardware, 24) == 24
    monkeypatch.setenv(HALVINGS, "1")
    assert fitting_micro_batch(hardware, 24) == 12
    monkeypatch.setenv(HALVINGS, "4")  # and whole micro-batches still fill the batch
    assert [fitting_micro_batch(hardware, share) for share in (24, 7, 160)] == [1, 1, 10]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop, smaller_next_time(2):
        raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
    assert stop.value.code == EXIT_OUT_OF_MEMORY
    with pytest.raises(torch.OutOfMemoryError), smaller_next_time(1):
        raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")


def test_a_launched_stage_is_started_again_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([EXIT_OUT_OF_MEMORY, EXIT_OUT_OF_MEMORY, 0])
    tried: list[str] = []

    def run(arguments: list[str], processes: int, *_: object) -> int:
        tried.append(os.environ.get(HALVINGS, "0"))
        return next(codes)

    monkeypatch.setattr(launch, "run", run)
    monkeypatch.setenv(HALVINGS, "0")  # put back after the test
    with pytest.raises(SystemExit) as stop:
        launch.relaunch_if_asked(HardwareSettings(processes=2))
    assert (stop.value.code, tried) == (0, ["0", "1", "2"])


ROOT = Path(__file__).resolve().parents[1]
FREED_AND_TAKEN = """
import resource, torch
from distill.on_policy.process_memory import keep_freed_memory
{}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):  # until the heap has its size
    torch.ones(10_000_000)  # 40 MB, which glibc would map anew each time
before = faults()
for _ in range(5):
    torch.ones(10_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc is left as it is")
def test_memory_that_a_run_frees_stays_with_it() -> None:
    """Pages that the system has to clear again, without and with."""
    found = []
    for told in ("", "keep_freed_memory()"):
        command = [sys.executable, "-c", FREED_AND_TAKEN.format(told)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found.append(int(done.stdout))
    assert found[1] * 10 < found[0]
