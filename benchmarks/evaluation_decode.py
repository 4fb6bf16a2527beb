"""Answers to prompts as in the evaluation (alpha 0), by our decode and by transformers' `generate`.

    python -m benchmarks.evaluation_decode [seed]

The workload's prompts, plain sampling, the same batch size for both, one after the other in one process; compared by
the CPU time a response token, because their draws differ. That both draw from the same distribution is tested
(tests/test_benchmarks.py). `make bench` runs it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.cycle_workload import END, Workload
from distill.generation.decode import sample_responses, similar_lengths
from distill.generation.frontier import left_pad
from distill.project.randomness import key

BATCH = 64


def ours(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int, seed: int) -> list[list[int]]:
    """Responses by the engine's decode."""
    keys = [key(seed, "evaluation", i) for i in range(len(prompts))]
    found = sample_responses(model, prompts, keys, max_new_tokens=limit, eos_id=END, batch_size=BATCH)
    return [response.ids for response in found]


@torch.no_grad()
def by_generate(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int, seed: int) -> list[list[int]]:
    """Responses by `generate`, in batches of similar length too."""
    torch.manual_seed(seed)
    settings = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, max_new_tokens=limit, eos_token_id=END, pad_token_id=END
    )
    responses: dict[int, list[int]] = {}
    for chosen in similar_lengths(prompts, BATCH):
        ids, mask = left_pad([prompts[i] for i in chosen], END, model.device)
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)  # type: ignore[operator]
        for i, row in zip(chosen, found[:, ids.shape[1] :].tolist(), strict=True):
            responses[i] = row[: row.index(END) + 1] if END in row else row
    return [responses[i] for i in range(len(prompts))]


Decode = Callable[[PreTrainedModel, Sequence[list[int]], int, int], list[list[int]]]


def measure(work: Workload, seed: int) -> dict[str, dict[str, float]]:
    """CPU seconds and response tokens by model and decode."""
    torch.set_num_threads(1)
    decodes: dict[str, Decode] = {"ours": ours, "generate": by_generate}
    prompts, found = work.prompts(), dict[str, dict[str, float]]()
    for name, model in zip(("student", "teacher"), work.models(), strict=True):
        for side, decode in decodes.items():
            decode(model, prompts[:2], 2, 0)
            began = time.process_time()
            responses = decode(model, prompts, work.response_tokens, seed)
            seconds = time.process_time() - began
            found[f"{side}, {name}"] = {"cpu_seconds": seconds, "tokens": float(sum(map(len, responses)))}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Workload(), int(sys.argv[1]) if len(sys.argv) > 1 else 0)))
