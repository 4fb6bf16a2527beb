"""The signs that a run must end: Ctrl-C, SIGTERM from a worker, or a cancel in the UI or the CLI."""

from __future__ import annotations

import contextlib
import contextvars
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client

_LOOK_EVERY_S = 2.0


@contextlib.contextmanager
def watched(stop: threading.Event, flow_run: UUID) -> Iterator[None]:
    """Set `stop` on Ctrl-C, and when the server says that `flow_run` is to be cancelled.

    Prefect itself tells only runs that a worker started; a run started by hand asks every two seconds.
    """
    ended = threading.Event()
    # In this context, which says which server is meant; a bare thread would start a temporary one.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(_ask_server, stop, ended, flow_run), daemon=True).start()
    try:
        with _interrupts(stop):
            yield
    finally:
        ended.set()


def _ask_server(stop: threading.Event, ended: threading.Event, flow_run: UUID) -> None:
    with get_client(sync_client=True) as client:
        while not ended.wait(_LOOK_EVERY_S) and not stop.is_set():
            with contextlib.suppress(httpx.HTTPError):  # a server that is away cancels nothing
                state = client.read_flow_run(flow_run).state
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    stop.set()


@contextlib.contextmanager
def _interrupts(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C sets `stop`, the second one is Python's own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def first(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
