"""Foreign models and tokenizers: whatever a library says of one that it cannot read becomes a sentence.

No torch at import: the checks before a run read configurations only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.project.errors import DistillError, ModelError, is_full_disk
from distill.project.references import Reference

_MOST = 400
"""Characters of a library's message; the fix that follows is never cut."""


@contextmanager
def in_words(what: str, fix: str, own_code: bool = False) -> Iterator[None]:
    """Raise whatever a library raises in the block as one sentence: `what` (its reason); `fix`.

    `own_code` says that the artefact names Python files of its own, which is then the likelier reason. A lack of
    memory, a full disk, Ctrl-C and faults that are sentences already pass as they are.

    Raises: ModelError.
    """
    try:
        yield
    except (DistillError, MemoryError):
        raise
    except Exception as error:
        if _lacks_memory(error) or is_full_disk(error):
            raise
        if own_code:
            raise ModelError(f"{what}: {OWN_CODE}") from error
        raise ModelError(f"{what} ({reason(error)}); {fix}") from error


OWN_CODE = (
    "it comes with Python code of its own (`auto_map` in its configuration), which is never run here; take a version "
    "of the model that transformers knows without such code (often named …-hf), or convert it elsewhere to one"
)


def reason(error: BaseException) -> str:
    """A library's message in one line, cut at a word."""
    text = " ".join(str(error).split()).rstrip(".:;") or type(error).__name__
    return text if len(text) <= _MOST else text[:_MOST].rpartition(" ")[0] + " …"


def _lacks_memory(error: Exception) -> bool:
    import torch

    # torch's allocator on a CPU has no class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def configuration(reference: Reference, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a folder or of the hub's cache, as it stands there; empty where it is absent or no mapping."""
    path = Path(reference.path or "") / name
    if reference.path is None:
        from transformers.utils.hub import cached_file

        try:
            path = Path(str(cached_file(reference.name, name, revision=reference.revision, local_files_only=True)))
        except Exception:  # noqa: BLE001  the loading itself says what is wrong with the reference
            return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def has_own_code(reference: Reference) -> bool:
    """Whether a model or tokenizer names Python files of its own."""
    return any("auto_map" in configuration(reference, name) for name in ("config.json", "tokenizer_config.json"))
