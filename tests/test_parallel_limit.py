"""Out of memory for real: under a limit of its address space a process does the same work in smaller batches.

This file is a test, and the program that the test starts, since a process cannot lift a limit again.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from distill.generation.decode import Mixture, sample_responses
from distill.objectives import kd
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.parallel.group import end_worker
from distill.parallel.launch import fitting_micro_batch, relaunch_if_asked, smaller_next_time
from distill.parallel.processes import ALONE, Processes, joined_processes
from distill.runs.hardware import HardwareSettings
from distill.text.examples import Example
from distill.training.objective import with_objective
from distill.training.settings import SupervisedSettings
from distill.training.supervised import Lesson, train_supervised
from tests.import_closure import ROOT
from tests.tiny_models import EOS, checksum, tiny_model

# Log-probabilities, and weights of size 1 after four steps of size 1e-3, in float32.
ROUNDING = 2e-5
# Of what the work takes without a limit.
ROOM = 0.6


def model(seed: int) -> PreTrainedModel:
    return tiny_model(
        "llama", vocabulary=300, width=64, layers=3, seed=seed, spread=0.02, dtype=torch.float32,
        max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip


def sequences(count: int, length: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(1, 300, (length,), generator=draw).tolist() for _ in range(count)]


def decode(rows: int) -> dict[str, Tensor]:
    """The caches of both models, for all rows at once, are what takes memory."""
    found = sample_responses(
        model(0),
        sequences(rows, 300),
        range(rows),
        max_new_tokens=8,
        eos_id=EOS,
        batch_size=rows,
        mixture=Mixture(model(1), 0.3),
    )
    ids = torch.tensor([token for response in found for token in response.ids])
    return {"ids": ids, "logprobs": torch.cat([response.logprobs for response in found])}


def minillm(rows: int) -> dict[str, Tensor]:
    """One micro-batch of all rows; decoding takes little, being done in fours."""
    chosen: dict[str, Any] = {"learning_rate": 1e-3, "warmup_steps": 0, "max_steps": 4, "evaluate_every": 4}
    settings = MiniLLMSettings(**chosen, rollouts=rows, minibatch=rows, inner_epochs=4, lm_coef=0.0)
    run = OnPolicyRun(
        model(0), model(1), Task(sequences(rows, 200), 8, EOS), MiniLLM(), settings, Execution(rows, 4), 0, checksum
    )  # fmt: skip
    run.train()
    return run.engine.weights()


def supervised(
    rows: int, processes: Processes = ALONE, micro_batch: int | Literal["auto"] = "auto"
) -> dict[str, Tensor]:
    """KD; `auto` begins with the whole batch."""
    student = model(0)
    examples = [Example(i, ids[:150], [*ids[150:], EOS], "") for i, ids in enumerate(sequences(rows, 200))]
    settings = with_objective(SupervisedSettings, kd)(learning_rate=1e-3, batch_size=rows, epochs=4)
    hardware = HardwareSettings(micro_batch=micro_batch)
    scratch = Path(f"scratch-{rows}-{micro_batch}")
    train_supervised(student, Lesson("test", examples, settings, kd, 0, model(1)), hardware, scratch, processes)
    return {name: parameter.detach().contiguous() for name, parameter in student.named_parameters()}


WORK: dict[str, tuple[Callable[[int], dict[str, Tensor]], int, str]] = {
    "decode": (decode, 192, "the decoding batch"),
    "minillm": (minillm, 32, "the micro-batch"),
    "supervised": (supervised, 32, "the micro-batch"),
}


def size(name: str) -> int:
    """Bytes of address space: `VmSize`, or the most there have been, `VmPeak`."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def limited(room: int) -> int:
    """Leave this process so many bytes beyond what it has, 0 being all there are; what it has."""
    before = size("VmSize")
    if room:
        resource.setrlimit(resource.RLIMIT_AS, (before + room, resource.RLIM_INFINITY))
    return before


def keep(name: str, found: dict[str, Tensor], taken: int) -> None:
    """Write what came of the work and the bytes that it took."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    save_file(found, f"{name}.safetensors")
    Path(f"{name}.taken").write_text(str(taken))


def in_a_child(name: str, work: Callable[[int], dict[str, Tensor]], rows: int, room: int) -> int:
    """Do the work in a process of its own, which has imported everything; the bytes it took."""
    child = os.fork()
    if child == 0:
        work(2)  # what is made at first use is no part of it
        before = limited(room)
        found = work(rows)
        keep(name, found, size("VmPeak") - before)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
    return int(Path(f"{name}.taken").read_text())


def main() -> None:
    """Everything without a limit, and with less than that takes."""
    for name, (work, rows, _) in WORK.items():
        taken = in_a_child(f"{name}-whole", work, rows, 0)
        print(f"now {name} with less", file=sys.stderr, flush=True)
        in_a_child(f"{name}-limited", work, rows, int(ROOM * taken))


def together(room: int) -> None:
    """A stage of two processes, which starts itself again until its micro-batch fits."""
    hardware, rows = HardwareSettings(processes=2, micro_batch="auto"), 64
    relaunch_if_asked(hardware)
    with joined_processes() as processes:
        supervised(4, processes, 2)
        micro_batch = fitting_micro_batch(hardware, rows // processes.count)
        before = limited(room)
        with smaller_next_time(micro_batch):
            found = supervised(rows, processes, micro_batch)
        if processes.is_first:
            keep("together-limited" if room else "together-whole", found, size("VmPeak") - before)
    end_worker()


def started(*arguments: str) -> str:
    """Run this file; what it said."""
    command = [sys.executable, "-m", "tests.test_parallel_limit", *arguments]
    # A second arena of the C library takes 64 MB of addresses, or none where they are few.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def require_same(name: str) -> None:
    """The limit was less than the work takes, and what came of it is the same but for rounding."""
    whole, limited = (int(Path(f"{name}-{how}.taken").read_text()) for how in ("whole", "limited"))
    assert limited <= ROOM * whole and whole > 30 * 2**20
    expected, found = (load_file(f"{name}-{how}.safetensors") for how in ("whole", "limited"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=ROUNDING, msg=f"{name}: {key}")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the size of a process is read from /proc/self/status, which this system does not have")
    monkeypatch.chdir(tmp_path)


def test_what_does_not_fit_is_done_in_parts() -> None:
    said = started()
    whole, *rest = said.split("now ")
    assert "out of memory" not in whole
    for (name, (_, _, halved)), part in zip(WORK.items(), rest, strict=True):
        assert part.startswith(name) and f"out of memory: {halved} is " in part
        require_same(name)


@pytest.mark.slow
def test_processes_that_share_a_pass_begin_again_with_half() -> None:
    assert "out of memory" not in started("0")
    taken = int(Path("together-whole.taken").read_text())
    said = started(str(int(ROOM * taken)))
    assert "out of memory at micro-batch 32" in said and "starting again with half the micro-batch" in said
    require_same("together")


if __name__ == "__main__":
    together(int(sys.argv[1])) if len(sys.argv) > 1 else main()
