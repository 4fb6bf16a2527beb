"""Orderly stops of a training loop: Ctrl-C and SIGTERM wait until the step is done and its state stored.

A second signal ends the run at once, as SIGKILL does; the run then goes on from the last state stored before.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from distill.project.errors import Terminated
from distill.project.running import is_started, speaks

# Seconds in which a repeated signal counts as the same one.
_ONE_SIGNAL = 1.0


class StopRequest:
    """Whether this process was asked to end; a training loop looks here after each step."""

    def __init__(self) -> None:
        """Begin without a request."""
        self.signal: int | None = None
        self._noted = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if is_started() and self.signal == number and now - self._noted < _ONE_SIGNAL:
            return  # a supervisor sends it to the launcher and to this process, and the launcher passes it on
        if self:
            self.signal = number
            self.obey()
        self.signal, self._noted = number, now
        if speaks():
            print("stopping once this step is stored; a second signal stops at once", file=sys.stderr)

    def agreed(self, any_of: Callable[[bool], bool]) -> bool:
        """Whether any process of the run was asked to end, by `any_of`; then all of them are."""
        if any_of(bool(self)) and not self:
            self.signal = signal.SIGTERM
        return bool(self)

    def obey(self) -> None:
        """End as the signal wants, if there was one: KeyboardInterrupt or Terminated."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise Terminated


@contextmanager
def stop_after_step() -> Iterator[StopRequest]:
    """Note signals in the request as long as the context lasts; obey them at its orderly end."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals; elsewhere the caller does
        return
    before = {number: signal.signal(number, request.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    request.obey()
