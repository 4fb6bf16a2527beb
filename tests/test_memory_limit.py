"""Out of memory for real: under a limit of its address space, a process ends with the weights it has without one.

This file is a test, and the program that the test starts: a limit cannot be taken back.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.generation.decode import Mixture, sample_responses
from distill.minillm.loop import Machine, MiniLLMRun, Task
from distill.minillm.settings import MiniLLMSettings
from distill.objectives import kd
from distill.runs.hardware import HardwareSettings
from distill.text.examples import Example
from distill.training.supervised import train_supervised
from tests.import_closure import ROOT
from tests.tiny_models import EOS, checksum, tiny_model

# Weights of size 1 after a few steps of size 1e-3, in float32, and log-probabilities.
ROUNDING = 2e-5
LONG = {"max_position_embeddings": 512, "dtype": torch.float32, "spread": 0.02, "width": 64, "layers": 3}


def size_of_process(name: str) -> int:
    """Bytes of address space: `VmSize`, or `VmPeak`."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def prompts(count: int, length: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(1, 300, (length,), generator=draw).tolist() for _ in range(count)]


def decode() -> dict[str, torch.Tensor]:
    """The caches of both models are what does not fit."""
    models = [tiny_model("llama", vocabulary=300, seed=seed, **LONG) for seed in (0, 1)]
    yield_point()
    found = sample_responses(
        models[0], prompts(192, 200), range(192), max_new_tokens=24, eos_id=EOS, batch_size=192,
        mixture=Mixture(models[1], 0.3),
    )
    ids = torch.tensor([token for response in found for token in response.ids])
    return {"ids": ids, "logprobs": torch.cat([response.logprobs for response in found])}
