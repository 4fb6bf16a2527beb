"""One process = two processes: this file is a test, and the program that the test starts under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.objectives import sft
from distill.runs.hardware import HardwareSettings
from distill.training.supervised import train_supervised
from tests.import_closure import ROOT
from tests.test_engine_supervised import examples
from tests.tiny_models import tiny_model


def main(processes: int) -> None:
    """Two epochs of two steps; the gradient is clipped, so its scale matters and not only its direction."""
    model = tiny_model(spread=0.2)
    settings = sft.ObjectiveSettings(learning_rate=1e-2, batch_size=8, epochs=2, max_grad_norm=0.05)
    hardware = HardwareSettings(micro_batch=4)
    curves = train_supervised("test", model, examples(16), settings, sft, hardware, Path(f"scratch-{processes}"), 0)
    if os.environ.get("RANK", "0") == "0":
        save_file({name: p.detach() for name, p in model.named_parameters()}, f"{processes}.safetensors")
        curves.write(Path(f"{processes}.curves"))


@pytest.mark.slow
def test_one_process_is_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fill the last batch are another matter: accelerate gives some of them to both."""
    monkeypatch.chdir(tmp_path)
    main(1)
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.test_engine_processes",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    one, two = (load_file(f"{count}.safetensors") for count in (1, 2))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-9, atol=1e-9, msg=name)
    for quantity in ("loss", "grad_norm"):
        assert Path(f"1.curves/{quantity}.tsv").read_text() == Path(f"2.curves/{quantity}.tsv").read_text()


if __name__ == "__main__":
    main(2)
