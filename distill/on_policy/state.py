"""Storing an unfinished run on own samples, and going on from it to the same bytes.

Everything random is keyed by the step, so a state is: weights, AdamW's moments, the best weights so far, the
curves and the ledger, and the rollouts still being trained on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from distill.generation.decode import Response
from distill.on_policy.ledger import CostLedger
from distill.on_policy.loop import OnPolicyRun
from distill.on_policy.rollouts import Collection
from distill.runs.curves import Curves
from distill.runs.resume import ResumeStore, State
from distill.runs.selection import Validations

# Read off the class: a tensor of each token that is added there is stored without a change here.
_SEQUENCES = [f.name for f in dataclasses.fields(Response) if f.name not in ("ids", "truncated")]


def store(run: OnPolicyRun, states: ResumeStore) -> None:
    """Write the run's state as it stands after `run.step` steps; called by all processes, written by the first."""
    info = {
        "validations": run.validations.found,
        "curves": run.curves.state(),
        "ledger": run.ledger.state(),
    }
    tensors = {
        "student": run.engine.weights(),
        "optimiser": run.engine.moments(),
        "best": run.best_weights,
        "rollouts": {},
    }
    # Between two collections there is nothing to keep: the next one is drawn from the weights alone.
    if run.collection is not None and run.step % run.settings.steps_per_collection:
        tensors["rollouts"] = _flatten(run.collection)
    if run.processes.is_first:
        states.save(State(run.step, info, tensors))
    run.processes.wait()  # or one that ends now would have the writer ended with it


def restore(run: OnPolicyRun, states: ResumeStore) -> None:
    """Put the newest intact state into a fresh `run`; do nothing when there is none."""
    state = states.load()
    if state is None:
        return
    run.engine.restore(state.tensors["student"], state.tensors["optimiser"])
    run.step = state.step
    run.validations = Validations(run.validations.by, state.info["validations"])
    run.best_weights = state.tensors["best"]
    run.curves, run.ledger = Curves(state.info["curves"]), CostLedger(state.info["ledger"])
    if state.tensors["rollouts"]:
        run.collection = _unflatten(state.tensors["rollouts"])


def _flatten(collection: Collection) -> dict[str, Tensor]:
    """A collection as a few flat tensors with lengths."""
    responses = collection.responses
    # Rows of unequal length end to end: safetensors know no ragged ones, and padding would be stored.
    flat: dict[str, Tensor] = {
        "prompt_ids": torch.tensor([i for prompt in collection.prompts for i in prompt]),
        "prompt_lengths": torch.tensor([len(prompt) for prompt in collection.prompts]),
        "response_ids": torch.tensor([i for response in responses for i in response.ids]),
        "response_lengths": torch.tensor([len(response.ids) for response in responses]),
        "truncated": torch.tensor([response.truncated for response in responses]),
        # Stored, though they follow from the rest: a sum formed elsewhere may round to other bytes.
        "advantages": collection.advantages,
        "mask": collection.mask,
        "sampled": collection.sampled,
    }
    for name in _SEQUENCES:
        values = torch.cat([getattr(response, name) for response in responses])
        # States that nobody kept are empty in every response, and come back empty.
        if values.numel():
            flat[name] = values
    return flat


def _unflatten(flat: dict[str, Tensor]) -> Collection:
    def split(values: Tensor, lengths: Tensor) -> list[Any]:
        return list(values.split(lengths.tolist()))

    lengths = flat["response_lengths"]
    count = len(lengths)
    ids = split(flat["response_ids"], lengths)
    empty = [torch.empty(0)] * count
    columns = {n: split(flat[n], lengths) if n in flat else empty for n in _SEQUENCES}
    responses = [
        Response(
            ids=ids[i].tolist(),
            truncated=bool(flat["truncated"][i]),
            **{n: columns[n][i] for n in _SEQUENCES},
        )
        for i in range(count)
    ]
    prompts = [p.tolist() for p in split(flat["prompt_ids"], flat["prompt_lengths"])]
    return Collection(prompts, responses, flat["advantages"], flat["mask"], flat["sampled"])
