"""Ctrl-C while calls are under way: the first lets them arrive, since they are paid; the second drops them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(first: Callable[[], object], second: Callable[[], object]) -> Iterator[list[int]]:
    """Call `first` at the first SIGINT or SIGTERM and `second` at the next; yields the signals that came.

    Inside a running event loop.
    """
    came: list[int] = []
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        came.append(number)
        (first if len(came) == 1 else second)()

    # Python hands signals to its main thread only.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield came
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
