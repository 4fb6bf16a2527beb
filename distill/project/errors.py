"""The errors a person is meant to read, and the one place where a command turns them into an exit code.

Every message is a sentence (or a list of them) that ends with the fix. Anything else that escapes is a bug
and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class DistillError(Exception):
    """A fault in what the project was given; the message ends with the fix."""


class SettingsError(DistillError):
    """A setting is misspelt, out of range, missing or given twice."""


class DataError(DistillError):
    """A file, row or hub data set cannot be used."""


class ModelError(DistillError):
    """A model or tokenizer cannot be loaded, or two of them do not fit together."""


class TrainingError(DistillError):
    """Training cannot go on: nothing to train on, or the numbers are no longer finite."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a command's `main`; show its `DistillError`s without a traceback.

    Exit codes: 2 for bad input, 130 after Ctrl-C, 0 otherwise.
    """
    try:
        main()
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was kept; run the same command to continue", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
