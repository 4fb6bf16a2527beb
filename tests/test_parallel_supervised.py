"""KD in two gloo processes is KD in one: a test, and the program that the test starts under torchrun.

The rows do not fill the last batch, and every epoch is validated; see test_parallel_minillm.py for the model's shape.
A stage of DeepSpeed is named by its number, with SFT in place of KD as `sft-2`; SeqKD is SFT on other rows.
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
from distill.objectives import kd, sft
from distill.parallel.processes import ALONE, Processes, joined_processes
from distill.runs.hardware import HardwareSettings
from distill.training.objective import with_objective
from distill.training.settings import SupervisedSettings
from distill.training.supervised import Lesson, Validate, train_supervised
from tests.test_engine_supervised import examples
from tests.test_parallel_minillm import in_two_processes
from tests.tiny_models import tiny_model

PROGRAM = "tests.test_parallel_supervised"
ROWS, BATCH = 18, 8
# Weights of size 1 after 9 steps of size 1e-2, in float32.
ROUNDING = 2e-6
# States are stored after each epoch (3 steps) and after this step: in the middle of the third.
SAVE_EVERY = 7


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
    """Three epochs of three steps; killed in the validation after epoch `kill_at`, or saved as `<name>-<stage>`."""
    precision = torch.bfloat16 if "bfloat16" in stage else torch.float32
    model = tiny_model("llama", tie_word_embeddings=True, spread=0.2, dtype=precision)
    teacher = tiny_model("llama", vocabulary=14, width=24, seed=1, dtype=precision)
    objective = sft if stage.startswith("sft") else kd
    settings = with_objective(SupervisedSettings, objective)(
        learning_rate=1e-2, batch_size=BATCH, epochs=3, max_grad_norm=0.05
    )
    hardware = HardwareSettings(
        micro_batch=2,
        save_every=SAVE_EVERY,
        zero_stage=None if stage.endswith("plain") else int(stage[-1]),
        gradient_checkpointing=stage.startswith("recomputed"),
    )
    scratch = Path(f"scratch-{name}-{stage}")
    lesson = Lesson("test", examples(ROWS), settings, objective, 0, teacher, validation(processes, kill_at))
    curves = train_supervised(model, lesson, hardware, scratch, processes)
    if processes.is_first:
        model.save_pretrained(f"{name}-{stage}")
        curves.write(Path(f"{name}-{stage}.curves"))


def main(stages: list[str]) -> None:
    """Each stage whole, and killed and taken up again; or under a `NAME` alone, killed by what cannot be caught."""
    kill_at = int(os.environ.get("KILL_AT", "0"))
    with joined_processes() as processes:
        for stage in stages:
            if "NAME" not in os.environ:
                train(processes, stage, "two")
                with pytest.raises(KilledError):
                    train(processes, stage, "resumed", kill_at=3)
                train(processes, stage, "resumed")
                continue
            try:
                train(processes, stage, os.environ["NAME"], kill_at)
            except KilledError:
                os.kill(os.getpid(), signal.SIGKILL)


def require_one_is_two(stages: list[str]) -> None:
    """What two processes left for each stage differs from one process's by rounding."""
    for stage in stages:
        alone = "sft-plain" if stage.startswith("sft") else "plain"
        if not Path(f"one-{alone}").exists():
            train(ALONE, alone, "one")
        expected, found = (AutoModelForCausalLM.from_pretrained(name) for name in (f"one-{alone}", f"two-{stage}"))
        for (name, mine), theirs in zip(expected.named_parameters(), found.parameters(), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=ROUNDING, msg=f"{stage}: {name}")
        losses = (Path(f"{name}.curves/valid_loss.tsv").read_text() for name in (f"one-{alone}", f"two-{stage}"))
        rows = [[float(value) for line in text.splitlines()[1:] for value in line.split()] for text in losses]
        assert rows[0] == pytest.approx(rows[1], rel=1e-5)


def require_resumed_is_whole(stages: list[str]) -> None:
    """To the byte, weights and curves."""
    for stage in stages:
        whole, resumed = (load_file(f"{name}-{stage}/model.safetensors") for name in ("two", "resumed"))
        assert all(torch.equal(resumed[name], weights) for name, weights in whole.items()), stage
        for file in Path(f"two-{stage}.curves").iterdir():
            assert file.read_text() == Path(f"resumed-{stage}.curves", file.name).read_text(), (stage, file.name)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_process_is_two_and_a_resumed_run_the_whole_one() -> None:
    stages = ["plain", "2"]
    in_two_processes(PROGRAM, *stages)
    require_one_is_two(stages)
    require_resumed_is_whole(stages)


@pytest.mark.slow
def test_it_is_so_at_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = ["0", "1", "sft-plain", "sft-0", "sft-1", "sft-2"]
    in_two_processes(PROGRAM, *stages, "bfloat16-1", "bfloat16-2")
    require_one_is_two(stages)
    require_resumed_is_whole([*stages, "bfloat16-1", "bfloat16-2"])


@pytest.mark.slow
def test_it_is_so_where_the_weights_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of DeepSpeed's stage 3 wants a process of its own: a second one meets hooks that the first has left."""
    for stage in ("3", "sft-3", "bfloat16-3", "recomputed-3"):
        monkeypatch.setenv("NAME", "two")
        in_two_processes(PROGRAM, stage)
    require_one_is_two(["3", "sft-3", "recomputed-3"])
    for stage in ("plain", "3", "sft-3", "bfloat16-3"):
        monkeypatch.setenv("NAME", "two")
        if stage == "plain":
            in_two_processes(PROGRAM, stage)
        monkeypatch.setenv("NAME", "resumed")
        monkeypatch.setenv("KILL_AT", "3")
        with pytest.raises(AssertionError, match="SIGKILL"):
            in_two_processes(PROGRAM, stage)
        monkeypatch.delenv("KILL_AT")
        in_two_processes(PROGRAM, stage)
    require_resumed_is_whole(["plain", "3", "sft-3", "bfloat16-3"])


if __name__ == "__main__":
    main(sys.argv[1:])
