"""MiniLLM in two gloo processes is MiniLLM in one: a test, and the program that the test starts under torchrun.

Twenty updates in float32, of a LLaMA shape with a tied head: every gradient of it means something. (A bias on the
keys, as GPT-2 has, changes nothing that a model says; its gradient is rounding, which Adam makes steps of.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill.minillm.loop import Machine, MiniLLMRun, Task
from distill.minillm.settings import MiniLLMSettings
from distill.minillm.state import restore, store
from distill.parallel.processes import ALONE, Processes, joined_processes
from distill.runs.hardware import HardwareSettings
from distill.runs.resume import ResumeStore
from tests.import_closure import ROOT
from tests.tiny_models import EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [7, 7, 7, 7]]
STEPS = 20
# Weights of size 1 after 20 steps of size 1e-2; float32 has seven digits.
ROUNDING = 2e-5


class KilledError(Exception):
    """Stands for a signal: nothing of the run runs after it."""


def new_run(processes: Processes, stage: str) -> MiniLLMRun:
    chosen: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "cosine", "evaluate_every": 3}
    chosen |= {"max_steps": STEPS, "rollouts": 8, "minibatch": 4, "inner_epochs": 2, "teacher_mix_alpha": 0.3}
    chosen |= {"lm_coef": 0.1, "lm_batch": 2, "lm_length": 6, "max_grad_norm": 0.5}
    student = tiny_model("llama", tie_word_embeddings=True, spread=0.2, dtype=torch.float32)
    teacher = tiny_model("llama", vocabulary=14, width=24, seed=1, dtype=torch.float32)
    zero = None if stage == "plain" else HardwareSettings(zero_stage=int(stage[-1]))
    machine = Machine(1, 4, processes, zero, gradient_checkpointing=stage.startswith("recomputed"))
    task = Task(PROMPTS, 8, EOS, torch.arange(200) % 11)
    return MiniLLMRun(student, teacher, task, MiniLLMSettings(**chosen), machine, 0, checksum)


def train(processes: Processes, stage: str, kill_after: int | None = None, name: str = "whole") -> MiniLLMRun:
    """As the stage does it: restore, train, store every third step; killed after a step."""
    states = ResumeStore(f"{stage}-{name}-{processes.count}", "a")
    run = new_run(processes, stage)
    restore(run, states)

    def after_step(run: MiniLLMRun) -> None:
        if run.step % 3 == 0 and run.step < STEPS:
            store(run, states)
        if run.step == kill_after:
            raise KilledError

    run.train(after_step)
    return run


def save(run: MiniLLMRun, name: str) -> None:
    if run.processes.is_first:
        run.student.save_pretrained(name)
        run.curves.write(Path(f"{name}.curves"))


def main(stages: list[str]) -> None:
    """Each stage whole, and killed in the middle of a collection and taken up again."""
    with joined_processes() as processes:
        for stage in stages:
            save(train(processes, stage), f"two-{stage}")
            try:
                train(processes, stage, kill_after=8, name="killed")
            except KilledError:
                save(train(processes, stage, name="killed"), f"resumed-{stage}")


def in_two_processes(*arguments: str) -> str:
    """Run this file under torchrun; what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "DS_ACCELERATOR": "cpu"}
    ran = subprocess.run(
        [*command, "-m", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout + ran.stderr


def one_is_two(stages: list[str]) -> None:
    if any(stage != "plain" for stage in stages) and shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles an extension, and there is no g++")
    alone = train(ALONE, "plain")
    save(alone, "one")
    in_two_processes("tests.test_parallel_minillm", *stages)
    for stage in stages:
        whole, resumed = (load_file(f"{name}-{stage}/model.safetensors") for name in ("two", "resumed"))
        assert all(torch.equal(resumed[name], weights) for name, weights in whole.items()), stage
        # A head tied to the embeddings is not in the file: transformers knows where it comes from.
        model = AutoModelForCausalLM.from_pretrained(f"two-{stage}")
        for (name, mine), theirs in zip(alone.student.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=ROUNDING, msg=f"{stage}: {name}")
        for quantity in ("reverse_kl", "response_tokens"):  # the same draws
            curves = (Path(f"{name}.curves/{quantity}.tsv").read_text() for name in ("one", f"two-{stage}"))
            rows = [[float(value) for line in text.splitlines()[1:] for value in line.split()] for text in curves]
            assert rows[0] == pytest.approx(rows[1], rel=1e-4)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_process_is_two() -> None:
    """With plain torch, and with everything divided."""
    one_is_two(["plain", "3"])


@pytest.mark.slow
def test_one_process_is_two_at_every_stage() -> None:
    """Checkpointed layers are computed again, and come out the same."""
    one_is_two(["0", "1", "2", "recomputed-2", "recomputed-3"])


if __name__ == "__main__":
    main(sys.argv[1:])
