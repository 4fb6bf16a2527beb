"""MiniLLM in two gloo processes is MiniLLM in one: a test, and the program that the test starts under torchrun.

Twenty updates in float32, of a LLaMA shape with a tied head: every gradient of it means something. (A bias on the
keys, as GPT-2 has, changes nothing that a model says; its gradient is rounding, which Adam makes steps of.)

A stage of DeepSpeed is named by its number, before which may stand what else is asked for: `recomputed` layers, a run
in `bfloat16`, a `resting` teacher (in bfloat16, and away during updates) or a `divided` one. `3>1` is a run that goes
on elsewhere.
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

from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.state import restore, store
from distill.parallel.processes import ALONE, Processes, joined_processes
from distill.runs.hardware import HardwareSettings
from distill.runs.resume import RESUME_FOLDER, ResumeStore
from tests.import_closure import ROOT
from tests.tiny_models import EOS, checksum, tiny_model

PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [7, 7, 7, 7]]
STEPS = 20
# Weights of size 1 after 20 steps of size 1e-2; float32 has seven digits.
ROUNDING = 2e-5


class KilledError(Exception):
    """Stands for a signal: nothing of the run runs after it."""


def new_run(processes: Processes, stage: str) -> OnPolicyRun:
    chosen: dict[str, Any] = {"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "cosine", "evaluate_every": 3}
    chosen |= {"max_steps": STEPS, "rollouts": 8, "minibatch": 4, "inner_epochs": 2, "teacher_mix_alpha": 0.3}
    chosen |= {"lm_coef": 0.1, "lm_batch": 2, "lm_length": 6, "max_grad_norm": 0.5}
    half, resting = stage.startswith("bfloat16"), stage.startswith("resting")
    student = tiny_model("llama", tie_word_embeddings=True, spread=0.2, dtype=torch.bfloat16 if half else torch.float32)
    precision = torch.bfloat16 if half or resting else torch.float32
    teacher = tiny_model("llama", vocabulary=14, width=24, seed=1, dtype=precision)
    zero = None if stage.endswith("plain") else HardwareSettings(zero_stage=int(stage[-1]))
    machine = Execution(
        1,
        4,
        processes,
        zero,
        gradient_checkpointing=stage.startswith("recomputed"),
        offload_teacher=resting,
        shard_teacher=stage.startswith("divided"),
    )
    task = Task(PROMPTS, 8, EOS, torch.arange(200) % 11)
    return OnPolicyRun(student, teacher, task, MiniLLM(), MiniLLMSettings(**chosen), machine, 0, checksum)


def train(
    processes: Processes, stage: str, kill_after: int | None = None, name: str = "whole", states: str | None = None
) -> OnPolicyRun:
    """As the stage does it: restore, train, store every third step; killed after a step."""
    states_of_it = ResumeStore(states or f"{stage}-{name}-{processes.count}", "a")
    run = new_run(processes, stage)
    restore(run, states_of_it)

    def after_step(run: OnPolicyRun) -> None:
        if run.step % 3 == 0 and run.step < STEPS:
            store(run, states_of_it)
        if run.step == kill_after:
            raise KilledError

    run.train(after_step)
    return run


def save(run: OnPolicyRun, name: str) -> None:
    if run.processes.is_first:
        run.student.save_pretrained(name)
        run.curves.write(Path(f"{name}.curves"))


def main(stages: list[str]) -> None:
    """Each stage whole, and killed in the middle of a collection and taken up again."""
    with joined_processes() as processes:
        for stage in stages:
            if ">" in stage:
                first, then = stage.split(">")
                with pytest.raises(KilledError):
                    train(processes, first, kill_after=8, states=f"moved-{then}")
                if processes.is_first:
                    shutil.copytree(RESUME_FOLDER / f"moved-{then}", RESUME_FOLDER / "moved-plain")
                processes.wait()
                save(train(processes, then, states=f"moved-{then}"), f"moved-{then}")
                continue
            run = train(processes, stage)
            if stage.startswith("divided"):
                assert all(parameter.numel() == 0 for parameter in run.teacher.model.layers.parameters())
            save(run, f"two-{stage}")
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


def require_deepspeed() -> None:
    if shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles an extension, and there is no g++")


def require_resumed_is_whole(stage: str) -> None:
    """To the byte."""
    whole, resumed = (load_file(f"{name}-{stage}/model.safetensors") for name in ("two", "resumed"))
    assert all(torch.equal(resumed[name], weights) for name, weights in whole.items()), stage


def require_same(run: OnPolicyRun, folder: str) -> None:
    """What was saved loads with transformers alone, and is the student of `run` but for rounding; so are the draws."""
    # A head tied to the embeddings is not in the file: transformers knows where it comes from.
    model = AutoModelForCausalLM.from_pretrained(folder)
    for (name, mine), theirs in zip(run.student.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=ROUNDING, msg=f"{folder}: {name}")
    for quantity in ("reverse_kl", "response_tokens"):
        rows = Path(f"{folder}.curves/{quantity}.tsv").read_text().splitlines()[1:]
        found = [float(row.split()[1]) for row in rows]
        assert found == pytest.approx([value for _, value in run.curves.points[quantity]], rel=1e-4), folder


def one_is_two(stages: list[str], alone: str = "plain") -> None:
    run = train(ALONE, alone)
    in_two_processes("tests.test_parallel_minillm", *stages)
    for stage in stages:
        require_resumed_is_whole(stage)
        require_same(run, f"two-{stage}")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_process_is_two() -> None:
    """With plain torch, and with everything divided. A teacher in parts is the same teacher to the byte."""
    require_deepspeed()
    one_is_two(["plain", "divided-plain", "3"])
    whole, divided = (load_file(f"two-{stage}/model.safetensors") for stage in ("plain", "divided-plain"))
    assert all(torch.equal(divided[name], weights) for name, weights in whole.items())


@pytest.mark.slow
def test_one_process_is_two_at_every_stage() -> None:
    """Checkpointed layers are computed again, and come out the same."""
    require_deepspeed()
    one_is_two(["0", "1", "2", "recomputed-2", "recomputed-3", "divided-3"])


@pytest.mark.slow
def test_a_resting_teacher_of_half_precision() -> None:
    require_deepspeed()
    one_is_two(["resting-plain", "resting-2", "resting-3"], alone="resting-plain")


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_and_another_stage() -> None:
    """From two processes that divide everything to two that divide moments, and to one without DeepSpeed."""
    require_deepspeed()
    run = train(ALONE, "plain")
    in_two_processes("tests.test_parallel_minillm", "3>1")
    require_same(run, "moved-1")
    save(train(ALONE, "plain", states="moved-plain"), "moved-plain")
    require_same(run, "moved-plain")


@pytest.mark.slow
def test_half_precision_over_weights_of_float32() -> None:
    """Taken up again to the byte; the first draws are one process's, later ones follow from other rounding."""
    require_deepspeed()
    run = train(ALONE, "bfloat16-plain")
    stages = ["bfloat16-1", "bfloat16-2", "bfloat16-3"]
    in_two_processes("tests.test_parallel_minillm", *stages)
    for stage in stages:
        require_resumed_is_whole(stage)
        weights = load_file(f"two-{stage}/model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
        state = ResumeStore(f"{stage}-killed-2", "a").load()
        assert state is not None and {value.dtype for value in state.tensors["student"].values()} == {torch.float32}
        first = Path(f"two-{stage}.curves/reverse_kl.tsv").read_text().splitlines()[1]
        assert float(first.split()[1]) == pytest.approx(run.curves.points["reverse_kl"][0][1], rel=1e-3)


if __name__ == "__main__":
    main(sys.argv[1:])
