"""Finished checkpoints: a `save_pretrained` folder with tokenizer and `meta.json`.

`meta.json` names the inputs of the weights and nothing else, so that a stage run again on the same inputs writes the
same bytes and DVC re-runs nothing below it. Time, machine and cost of the run stand beside the folder in
`<what>.run.json`.
"""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.models.lora import has_adapter, save_adapter
from distill.models.merging import merged_weights
from distill.models.origins import ADAPTER_FOLDER, REFERENCE_FILE, origin
from distill.models.settings import LoraSettings
from distill.project.errors import ModelError
from distill.project.files import fresh_dir, sha256_file, write_json
from distill.project.references import ModelReference, Reference
from distill.project.revision import code_revision

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets")


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    meta: dict[str, Any],
    adapted: Adapted | None = None,
) -> None:
    """Write model, tokenizer and `meta.json` as one folder, or nothing at all.

    A LoRA adapter goes to `adapter/`, beside the merged weights or, with `save: adapter`, beside a pointer to its
    base. The model in memory stays unmerged.

    Raises: ModelError when that base is a model of this pipeline.
    """
    with fresh_dir(folder) as aside:
        if has_adapter(model):
            base = None if adapted is None else adapted.base
            save_adapter(model, aside / ADAPTER_FOLDER, base)
            if adapted is not None and adapted.settings.save == "adapter":
                write_json(aside / REFERENCE_FILE, require_elsewhere(base).model_dump())
            else:
                model.save_pretrained(aside, state_dict=merged_weights(model))
        else:
            model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_json(aside / "meta.json", {**meta, "versions": library_versions()})


def save_reference(
    source: ModelReference, tokenizer: PreTrainedTokenizerBase, folder: Path, meta: dict[str, Any]
) -> None:
    """Write a checkpoint that points to the weights of `source`, with tokenizer and `meta.json`.

    meta.json holds the hashes of a folder's weights, so that other weights in their place are another checkpoint.
    """
    found = origin(source)  # a folder of another clone may point on itself
    parts = (found.base, found.adapter)
    places = [Path(part.path) for part in parts if part is not None and part.path is not None]
    weights = {str(file): sha256_file(file) for place in places for file in sorted(place.glob("*.safetensors"))}
    with fresh_dir(folder) as aside:
        write_json(aside / REFERENCE_FILE, source.model_dump())
        tokenizer.save_pretrained(aside)
        write_json(aside / "meta.json", {**meta, "weights": weights, "versions": library_versions()})


@dataclass(frozen=True)
class Adapted:
    """LoRA settings of a trained model, and its base."""

    settings: LoraSettings
    base: Reference | None
    """Source of the weights below the adapter; None for a model of this pipeline."""


def elsewhere(folder: Path) -> Reference | None:
    """Source of the weights of `folder` outside this pipeline; None for weights of its own."""
    found = origin(folder)
    return None if found.adapter is not None or str(found.base) == str(folder) else found.base


def require_elsewhere(base: Reference | None) -> Reference:
    """`base`. Raises: ModelError when it is a model of this pipeline, which another checkout may not have."""
    if base is None:
        raise ModelError(
            "`lora.save: adapter` needs a base from a hub id or folder (`model: {source: …}`); this one was trained "
            "here, so write `save: merged`"
        )
    return base


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files beside a pointer to weights."""
    shutil.copytree(source, folder, dirs_exist_ok=True)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the numbers depend on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


class RunRecord:
    """Time, machine and cost of a stage's run; written beside its output, and no later stage depends on it."""

    def __init__(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._cpu = time.process_time()

    def write(self, path: Path, **extra: Any) -> None:
        """Write the record, with `extra` (e.g. the cost ledger) beside the standard entries."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cuda = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        record = {
            "seconds": round(time.monotonic() - self._began, 2),
            "cpu_seconds": round(time.process_time() - self._cpu, 2),
            "peak_rss_mib": round(peak, 1),
            "peak_cuda_mib": None if cuda is None else round(cuda, 1),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "code_revision": code_revision(),
            **extra,
        }
        write_json(path, record)
