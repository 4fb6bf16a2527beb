"""What the files of a model say, before it is loaded: its configuration, its quantisation, its tensors. No torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from distill.project.references import Reference


def stored_file(reference: Reference, name: str, cached: bool = False) -> Path | None:
    """A file of a folder or a hub repository; None where it is absent. `cached` asks no hub."""
    if reference.path is not None:
        path = Path(reference.path) / name
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(reference.name, name, revision=reference.revision, local_files_only=cached)
    except Exception:  # noqa: BLE001  whether the reference can be had at all is for the loading to say
        return None
    return None if found is None else Path(found)


def has_weights_here(reference: Reference) -> bool:
    """Whether a model's weights are on this disk: a folder's always count as such."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return reference.path is not None or any(stored_file(reference, name, cached=True) for name in names)


def configuration(reference: Reference, name: str = "config.json", cached: bool = False) -> dict[str, Any]:
    """A JSON file of a model as it stands there; empty where it is absent or no mapping."""
    path = stored_file(reference, name, cached)
    try:
        content = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # refused by the loading, with its place
    return content if isinstance(content, dict) else {}


def quantisation(config: dict[str, Any]) -> str | None:
    """The name of the quantisation that a config.json speaks of, at its top or in a part of it; None without one."""
    found = config.get("quantization_config") or config.get("compression_config")
    if isinstance(found, dict):
        return str(found.get("quant_method") or found.get("quantization_status") or "unnamed")
    parts = [part for part in config.values() if isinstance(part, dict)]
    return next((name for part in parts if (name := quantisation(part)) is not None), None)


def stored_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in a folder's safetensors, from their headers; empty where they cannot be read."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name in names:
            with (folder / name).open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(min(length, 2**28)))
            header.pop("__metadata__", None)
            found |= {tensor: (entry["dtype"], tuple(entry["shape"])) for tensor, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return {}
    return found


def is_floating(kind: str) -> bool:
    """Whether a safetensors type holds plain numbers: F16, BF16, F32 or F64; FP8 needs a scale beside it."""
    return kind in ("F16", "BF16", "F32", "F64")


def mostly_packed(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Whether most of the stored numbers are no plain ones, as in a quantised model."""
    sizes = [(kind, math.prod(shape)) for kind, shape in tensors.values()]
    return sum(size for kind, size in sizes if not is_floating(kind)) > sum(size for _, size in sizes) / 2
