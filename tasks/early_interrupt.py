"""Ctrl-C during a command's imports, which take seconds with Prefect: a sentence, not a traceback."""

from __future__ import annotations

import sys
from types import TracebackType


def answer_early_interrupt() -> None:
    """Answer an unhandled Ctrl-C with a sentence; Python then ends by the signal, as it does without this."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted: run the same command to continue", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
