"""What libraries raise over a foreign model, tokenizer or file, as a sentence with the fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from distill.project.errors import DistillError, ModelError, is_full_disk

_MOST = 300
"""Characters of a library's message; the fix that follows is never cut."""
# Messages of torch's allocator on a CPU, which has no error class of its own.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "std::bad_alloc")
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
    except DistillError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or is_full_disk(error):
            raise
        # The libraries name the option that would allow it, and only then.
        if "trust_remote_code" in str(error):
            raise ModelError(f"{what}: {_OWN_CODE}") from error
        raise ModelError(f"{what} ({reason(error)}); {fix}") from error


def reason(error: BaseException) -> str:
    """A library's message in one line, cut between words."""
    text = " ".join(str(error).split()).rstrip(".:;") or type(error).__name__
    return text if len(text) <= _MOST else text[:_MOST].rpartition(" ")[0] + " …"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports too little memory, of a GPU or a CPU."""
    torch = sys.modules.get("torch")  # what was never imported has raised nothing
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _CPU_MESSAGES)
