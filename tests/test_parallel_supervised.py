"""KD in two gloo processes is KD in one: a test, and the program that the test starts under torchrun.

The rows do not fill the last batch, and every epoch is validated; see test_parallel_minillm.py for the model's shape.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from distill.generation.validation import reference_loss
from distill.objectives import kd
from distill.parallel.processes import ALONE, Processes, joined_processes
from distill.runs.hardware import HardwareSettings
from distill.training.supervised import Validate, train_supervised
from tests.test_engine_supervised import examples
from tests.test_parallel_minillm import in_two_processes
from tests.tiny_models import tiny_model

ROWS, BATCH = 18, 8
# Weights of size 1 after 9 steps of size 1e-2, in float32.
ROUNDING = 2e-6


class KilledError(Exception):
    """Stands for a signal: nothing of the run runs after it."""


def validation(processes: Processes, kill_at: int = 0) -> Validate:
    calls = iter(range(1, 100))

    def validate(model: PreTrainedModel) -> dict[str, float]:
        if next(calls) == kill_at:
            raise KilledError
        loss = reference_loss(model, examples(ROWS), 4, processes)
        return {"rouge_l": -loss, "loss": loss}

    return validate


def train(processes: Processes, stage: str, name: str, kill_at: int = 0) -> None:
    """Three epochs of three steps; a state is stored after each second step and each epoch."""
    model = tiny_model("llama", tie_word_embeddings=True, spread=0.2, dtype=torch.float32)
    teacher = tiny_model("llama", vocabulary=14, width=24, seed=1, dtype=torch.float32)
    settings = kd.ObjectiveSettings(learning_rate=1e-2, batch_size=BATCH, epochs=3, max_grad_norm=0.05)
    hardware = HardwareSettings(
        micro_batch=2,
        save_every=2,
        zero_stage=None if stage == "plain" else int(stage[-1]),
        gradient_checkpointing=stage.startswith("recomputed"),
    )
    scratch = Path(f"scratch-{name}-{stage}")
    curves = train_supervised(
        "test",
        model,
        examples(ROWS),
        settings,
        kd,
        hardware,
        scratch,
        0,
        teacher,
        validation(processes, kill_at),
        processes,
    )
    if processes.is_first:
        model.save_pretrained(f"{name}-{stage}")
        curves.write(Path(f"{name}-{stage}.curves"))


def main(stages: list[str]) -> None:
    """Each stage whole; or killed in the second epoch's validation, by the signal that cannot be caught."""
    kill_at = int(os.environ.get("KILL_AT", "0"))
    with joined_processes() as processes:
        for stage in stages:
            try:
                train(processes, stage, os.environ["NAME"], kill_at)
            except KilledError:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_one_process_is_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(ALONE, "plain", "one")
    expected = AutoModelForCausalLM.from_pretrained("one-plain")
    program = "tests.test_parallel_supervised"
    monkeypatch.setenv("NAME", "two")
    stages = ["plain", "0", "1", "2", "3"]
    in_two_processes(program, *stages)
    in_two_processes(program, "recomputed-3")  # stage 3 twice in one process leaves DeepSpeed's hooks confused
    for stage in [*stages, "recomputed-3"]:
        found = AutoModelForCausalLM.from_pretrained(f"two-{stage}")
        for (name, mine), theirs in zip(expected.named_parameters(), found.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=ROUNDING, msg=f"{stage}: {name}")
        losses = (Path(f"{name}.curves/valid_loss.tsv").read_text() for name in ("one-plain", f"two-{stage}"))
        rows = [[float(value) for line in text.splitlines()[1:] for value in line.split()] for text in losses]
        assert rows[0] == pytest.approx(rows[1], rel=1e-5)
    for stage in ("plain", "2", "3"):
        monkeypatch.setenv("NAME", "resumed")
        monkeypatch.setenv("KILL_AT", "2")
        with pytest.raises(AssertionError, match="SIGKILL"):
            in_two_processes(program, stage)
        monkeypatch.delenv("KILL_AT")
        in_two_processes(program, stage)
        whole, resumed = (load_file(f"{name}-{stage}/model.safetensors") for name in ("two", "resumed"))
        for name, weights in whole.items():
            # Not to the byte: with ZeRO 2 one run, taken up in the middle of an epoch, was off by 6e-8.
            torch.testing.assert_close(resumed[name], weights, rtol=0, atol=ROUNDING, msg=f"{stage}: {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
