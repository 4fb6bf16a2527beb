"""TRL's on-policy distillation trainer on our workload, in the release of the extra `bench`.

It samples from the student alone and takes one optimiser step on each mini-batch of fresh responses, reverse KL to
the teacher; no mixing, no importance weights, no inner epochs. So a cycle of 64 rollouts is 4 steps, not 16.
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import DistillationConfig, DistillationTrainer

from benchmarks.cycle_workload import END, Workload
from benchmarks.fresh_process import Meter


class TimedTrainer(DistillationTrainer):  # type: ignore[misc, unused-ignore]  # without TRL its class is unknown
    """The trainer, with the CPU seconds it spends sampling."""

    collect_seconds = 0.0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        began = time.process_time()
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.collect_seconds += time.process_time() - began
        return found


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the token ids, because the trainer takes text."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token=str(END)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = str(END)
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end, padding_side="left")


def measure() -> dict[str, float]:
    """CPU seconds of as many steps as the workload has mini-batches, by phase, and the peak memory."""
    torch.set_num_threads(1)
    work = Workload()
    (student, teacher), tokenizer = work.models(), number_tokenizer(work.vocabulary)
    prompts = Dataset.from_dict({"prompt": [" ".join(map(str, prompt)) for prompt in work.prompts()]})
    steps = work.rollouts // work.minibatch
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationConfig(
            output_dir=folder,
            per_device_train_batch_size=work.minibatch,
            max_steps=steps,
            max_completion_length=work.response_tokens,
            learning_rate=5e-6,
            beta=1.0,
            # Its fastest choice in float32 on a CPU.
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = TimedTrainer(
            model=student,
            teacher_model=teacher,
            args=arguments,
            train_dataset=prompts,
            processing_class=tokenizer,
        )
        began = meter.cpu_seconds()
        trainer.train()
        whole = meter.cpu_seconds() - began
    update = whole - trainer.collect_seconds
    return {
        "collect": trainer.collect_seconds,
        "update": update,
        "cycle": whole,
        "step": update / steps,
        "peak_mib": meter.peak_mib(),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
