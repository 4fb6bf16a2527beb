"""Ctrl-C while a command still imports what it needs, which takes Prefect seconds: a sentence, not a traceback."""

from __future__ import annotations

import sys
from types import TracebackType


def answer_early_interrupt() -> None:
    """Let an unhandled Ctrl-C be answered by a sentence; Python then ends itself by the signal, as without this."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted: run the same command to continue", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
