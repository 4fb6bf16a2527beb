"""Foreign models and tokenizers: what their files say, and what a library says of them as a sentence.

No torch at import: the checks before a run read configurations only.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.project.errors import DistillError, ModelError, is_full_disk
from distill.project.references import Reference

_MOST = 300
"""Characters of a library's message; the fix that follows is never cut."""
_OWN_CODE = (
    "it comes with Python code of its own (`auto_map` in its files), which is never run here; take a version of it "
    "that transformers knows without such code (on the hub often named …-hf), or convert it elsewhere to one"
)


@contextmanager
def in_words(what: str, fix: str) -> Iterator[None]:
    """Raise whatever a library raises in the block as one sentence: `what` (its reason); `fix`.

    A lack of memory, a full disk, Ctrl-C and faults that are sentences already pass as they are.

    Raises: ModelError.
    """
    try:
        yield
    except (DistillError, MemoryError):
        raise
    except Exception as error:
        if _lacks_memory(error) or is_full_disk(error):
            raise
        # The libraries name the option that would allow it, and only then.
        if "trust_remote_code" in str(error):
            raise ModelError(f"{what}: {_OWN_CODE}") from error
        raise ModelError(f"{what} ({reason(error)}); {fix}") from error


def reason(error: BaseException) -> str:
    """A library's message in one line, cut between words."""
    text = " ".join(str(error).split()).rstrip(".:;") or type(error).__name__
    return text if len(text) <= _MOST else text[:_MOST].rpartition(" ")[0] + " …"


def _lacks_memory(error: Exception) -> bool:
    import torch

    # torch's allocator on a CPU has no class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return {}
    return found


def is_floating(kind: str) -> bool:
    """Whether a safetensors type holds plain numbers: F16, BF16, F32 or F64; FP8 needs a scale beside it."""
    return kind in ("F16", "BF16", "F32", "F64")


def mostly_packed(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Whether most of the stored numbers are no plain ones, as in a quantised model."""
    sizes = [(kind, math.prod(shape)) for kind, shape in tensors.values()]
    return sum(size for kind, size in sizes if not is_floating(kind)) > sum(size for _, size in sizes) / 2
