"""Errors with a sentence for a person, and the exit codes of commands.

Every message is a sentence (or a list of them) that ends with the fix. Anything else that escapes is a bug
and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from distill.project.running import alone, begin, is_started

EXIT_FULL_DISK = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
_HARDLY_FREE = 2**20
_CONTINUE = "nothing half-written was kept; run the same command to continue"
_INTERRUPTED, _TERMINATED = f"interrupted: {_CONTINUE}", f"terminated: {_CONTINUE}"


class DistillError(Exception):
    """A fault in what the project was given; the message ends with the fix."""


class SettingsError(DistillError):
    """A setting is misspelt, out of range, missing or given twice."""


class DataError(DistillError):
    """A file, row or hub data set cannot be used."""


class DisagreementError(DataError):
    """The processes of a run disagree; each raises it, and the message names them."""


class ModelError(DistillError):
    """A model or tokenizer cannot be loaded, or two of them do not fit together."""


class TrainingError(DistillError):
    """Training cannot go on: nothing to train on, or the numbers are no longer finite."""


class DivergedError(TrainingError):
    """The numbers are no longer finite, or the student collapsed; `rows` is the batch at hand, JSON-like."""

    def __init__(self, message: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        """`message` ends with the fix."""
        super().__init__(message)
        self.rows = rows


class Terminated(BaseException):
    """SIGTERM has arrived, as `KeyboardInterrupt` says that Ctrl-C was pressed."""


def start_again_with_docstrings() -> None:
    """Start this command anew where Python leaves docstrings out (-OO), without which transformers cannot be imported.

    For a package that Python imports while it looks for the module to run: `sys.argv` holds the arguments alone.
    """
    if sys.flags.optimize < 2:
        return
    named = sys.orig_argv[-len(sys.argv)]  # the module, or `-OOmMODULE`
    module = named.partition("m")[2] if named.startswith("-") else named
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], kept)


def answer_early_interrupt() -> None:
    """Answer Ctrl-C during a command's imports, before `run_stage`, with a sentence instead of a traceback.

    Python then ends itself by the signal, as it would have done.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(_INTERRUPTED, file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def run_stage(main: Callable[[], None]) -> None:
    """Run a command's `main`; show no traceback for a fault that a person can mend, or for a stop.

    Commands import torch inside `main`: it takes seconds, in which Ctrl-C deserves the same answer.

    Exit codes: 2 for bad input or a file that may not be used, 130 after Ctrl-C, 143 after SIGTERM, 1 for a full disk,
    0 otherwise.
    """
    from distill.project.network import blamed_proxy, keep_loopback_direct  # it raises this file's errors

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        begin()
        keep_loopback_direct(os.environ)
        with alone():
            main()
    except DistillError as error:
        print(f"error: {blamed_proxy(error) or error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except (KeyboardInterrupt, Terminated) as stop:
        pressed = isinstance(stop, KeyboardInterrupt)
        if not is_started():  # of several processes the launcher says it
            print(_INTERRUPTED if pressed else _TERMINATED, file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED if pressed else EXIT_TERMINATED) from None
    except Exception as error:
        if cause := blamed_proxy(error):
            print(f"error: {cause}", file=sys.stderr)
            raise SystemExit(EXIT_BAD_INPUT) from None
        if is_full_disk(error):
            print(f"error: {full_disk_message(error)}", file=sys.stderr)
            raise SystemExit(EXIT_FULL_DISK) from None
        if is_forbidden(error):
            print(f"error: {forbidden_message(error)}", file=sys.stderr)
            raise SystemExit(EXIT_BAD_INPUT) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM."""
    raise Terminated


def is_full_disk(error: Exception) -> bool:
    """Whether a failed write means a full disk: torch, Arrow and safetensors each say so in their own way."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # torch names neither the disk nor the reason, so look.
    written = [place for place in (Path(), Path(".resume"), Path("runs")) if place.exists()]
    full = any(shutil.disk_usage(place).free < _HARDLY_FREE for place in written)
    return full or "No space left on device" in str(error)


def is_forbidden(error: Exception) -> bool:
    """Whether a file or folder may not be read or written by this user, or not at all."""
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def forbidden_message(error: Exception) -> str:
    """The sentence about it, with the fix."""
    named = getattr(error, "filename", None)
    place = f"{named}: " if named else ""
    reason = getattr(error, "strerror", None) or str(error)
    return f"{place}{reason}; give this user the right to use it, or work in a clone on a disk that can be written"


def full_disk_message(error: Exception) -> str:
    """The sentence about a full disk, with the fix."""
    return (
        f"the disk is full ({str(error).splitlines()[0]}); nothing half-written was kept: "
        "free some space and run the same command to continue"
    )
