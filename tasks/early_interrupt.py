"""Before a command's imports: Ctrl-C during them is answered by a sentence, and Python keeps docstrings."""

from __future__ import annotations

import os
import sys
from types import TracebackType


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
    """Answer an unhandled Ctrl-C with a sentence; Python then ends by the signal, as it does without this."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted: run the same command to continue", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
