"""The doctor's memory estimate against the peak resident memory of fresh processes, on six small shapes.

    python -m benchmarks.training_memory                 # all of them, one process each
    python -m benchmarks.training_memory minillm         # one of them, in this process; prints JSON

Each runs the project's own training for a few steps on random rows. The estimate's two fitted constants come from the
first three (SFT of a GPT-2, KD from one LLaMA to another, MiniLLM with a Qwen2); the others were measured afterwards.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.objectives.minillm.objective import MiniLLM
from distill.preflight.memory_estimate import Placement, PlannedRun, estimate
from distill.preflight.shapes import shape_of

if TYPE_CHECKING:
    from distill.text.examples import Example

_VOCABULARY = 16_000
_STEPS = 2


@dataclass(frozen=True)
class Case:
    """A run, the configurations of its models, and its layout."""

    student: dict[str, Any]
    teacher: dict[str, Any] | None
    run: PlannedRun
    place: Placement


def _rotary(kind: str, width: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "vocab_size": _VOCABULARY,
    }


def cases() -> dict[str, Case]:
    """The three shapes."""
    gpt2 = {"model_type": "gpt2", "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 256}
    gpt2 |= {"vocab_size": _VOCABULARY}
    small, large = _rotary("llama", 256, 4), _rotary("llama", 512, 6)
    student, teacher = _rotary("qwen2", 256, 4), _rotary("qwen2", 512, 6)
    cpu = Placement(micro_batch=8, decode_batch=32, cache_teacher=False)
    opt = {"model_type": "opt", "hidden_size": 320, "word_embed_proj_dim": 320, "ffn_dim": 1280}
    opt |= {"num_hidden_layers": 8, "num_attention_heads": 8, "max_position_embeddings": 512, "vocab_size": _VOCABULARY}
    plain = {**gpt2, "n_embd": 256, "n_layer": 4, "n_head": 4, "activation_function": "gelu_pytorch_tanh"}
    return {
        "sft": Case(gpt2, None, PlannedRun("rows", shape_of(gpt2), None, batch=8, prompt=128, response=128), cpu),
        "kd": Case(
            small,
            large,
            PlannedRun("rows, teacher", shape_of(small), shape_of(large), batch=16, prompt=96, response=96),
            cpu,
        ),
        "minillm": Case(
            student,
            teacher,
            PlannedRun(
                "own samples", shape_of(student), shape_of(teacher), batch=16, prompt=64, response=64, rollouts=32
            ),
            replace(cpu, micro_batch=16),
        ),
        "accumulating sft": Case(
            opt,
            None,
            PlannedRun("rows", shape_of(opt), None, batch=12, prompt=64, response=192),
            replace(cpu, micro_batch=4),
        ),
        "validated sft": Case(
            plain,
            None,
            PlannedRun("rows", shape_of(plain), None, batch=8, prompt=64, response=64, validated=64),
            replace(cpu, decode_batch=64),
        ),
        "minillm with plain text": Case(
            plain,
            gpt2,
            PlannedRun("own samples", shape_of(plain), shape_of(gpt2), 8, 64, 64, rollouts=16, plain_text=(8, 192)),
            cpu,
        ),
    }


def measure(name: str) -> dict[str, float]:
    """Run one case here: peak resident bytes, those before any model was made, and the estimate."""
    import torch

    from distill.objectives import kd, sft
    from distill.objectives.minillm.settings import MiniLLMSettings
    from distill.on_policy.loop import Execution, OnPolicyRun, Task
    from distill.on_policy.process_memory import keep_freed_memory
    from distill.runs.hardware import HardwareSettings
    from distill.training.objective import RowObjective, with_objective
    from distill.training.settings import SupervisedSettings
    from distill.training.supervised import Lesson, train_supervised

    case, run, place = cases()[name], cases()[name].run, cases()[name].place
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    student = _model(case.student)
    teacher = None if case.teacher is None else _model(case.teacher)
    rows, known = _rows(run), 0.0
    if run.loss == "own samples":
        assert teacher is not None
        keep_freed_memory()  # as its stage does
        chosen = {"learning_rate": 1e-4, "max_steps": _STEPS, "rollouts": run.rollouts, "minibatch": run.batch}
        if run.plain_text[0]:
            chosen |= {"lm_coef": 1.0, "lm_batch": run.plain_text[0], "lm_length": run.plain_text[1]}
        settings = MiniLLMSettings.model_validate(chosen)
        stream = torch.randint(_VOCABULARY - 1, (10_000,))
        task = Task([row.prompt_ids for row in rows], run.response, _VOCABULARY - 1, stream)
        machine = Execution(place.micro_batch, place.decode_batch)
        trained = OnPolicyRun(student, teacher, task, MiniLLM(), settings, machine, 0, lambda model: {"rouge_l": 0.0})
        trained.train()
        # The process's own mark starts anew with each phase of a run; the ledger has the highest.
        known = trained.ledger.memory.highest()["peak_rss_mib"] * 2**20
    else:
        objective: RowObjective = kd if run.loss == "rows, teacher" else sft
        settings_of_rows = with_objective(SupervisedSettings, objective)(
            learning_rate=1e-4, batch_size=run.batch, epochs=1
        )
        validate = _validation(run, place) if run.validated else None
        lesson = Lesson("memory", rows, settings_of_rows, objective, 0, teacher, validate)
        hardware = HardwareSettings(micro_batch=place.micro_batch, cache_teacher=place.cache_teacher)
        with tempfile.TemporaryDirectory() as scratch:
            train_supervised(student, lesson, hardware, Path(scratch))
    peak = max(known, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return {"measured": peak, "before": before, "estimated": estimate(run, place).peak}


def _model(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from distill.models.loading import fuse_activations

    values = {name: value for name, value in config.items() if name != "model_type"}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _VOCABULARY - 1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **ids, **values))
    fuse_activations(model)  # as loading does
    return model


def _validation(run: PlannedRun, place: Placement) -> Any:
    from distill.generation.settings import SamplingSettings
    from distill.generation.validation import Validation
    from distill.text.tokenizers import learn_bpe

    tokenizer = learn_bpe(["a b c"], 300)  # has few of the ids; nobody reads these answers
    rows = _rows(replace(run, batch=run.validated))[: run.validated]
    return Validation(rows, tokenizer, SamplingSettings(), run.response, place.decode_batch, 0)


def _rows(run: PlannedRun) -> list[Example]:
    from distill.text.examples import Example

    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(_VOCABULARY - 1) for _ in range(length)]

    return [Example(i, ids(run.prompt), ids(run.response), "") for i in range(_STEPS * run.batch)]


def main() -> None:
    """Print one line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="?", choices=list(cases()))
    name = parser.parse_args().case
    if name is not None:
        print(json.dumps(measure(name)))
        return
    for each in cases():
        command = [sys.executable, "-m", "benchmarks.training_memory", each]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        error = found["estimated"] / found["measured"] - 1
        numbers = ", ".join(f"{what} {value / 2**20:,.0f} MiB" for what, value in found.items())
        print(f"{each}: {numbers}, error {error:+.1%}", flush=True)


if __name__ == "__main__":
    main()
