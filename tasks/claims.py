"""Claims of machines on stages, so that several workers on one graph build each stage once.

A claim is a Prefect variable: the server makes it only if nobody else has it, it survives the server's restart, and
it names its holder. The claim of a silent machine is taken over; at worst a stage is built twice.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

_BEAT_EVERY_S = 60.0
_SILENT_AFTER_S = 600.0  # ten missed beats, and more than the clocks of two machines differ by
_ASK_AGAIN_AFTER_S = 2.0


class Claims:
    """The claims of one flow run on the stages of one shared pipeline."""

    def __init__(self, client: SyncPrefectClient, remote: str, flow_run: UUID, say: Callable[[str], None]) -> None:
        """`remote`, the address of the DVC remote, tells one pipeline from another."""
        self._client, self._remote, self._flow_run, self._say = client, remote, flow_run, say
        self._held: set[str] = set()
        self._ask_again: dict[str, float] = {}

    def take(self, stage: str) -> bool:
        """Whether this run may build `stage` now; also True when the server does not answer."""
        name = _variable(self._remote, stage)
        if time.monotonic() < self._ask_again.get(name, 0.0):
            return False
        try:
            taken = self._create(name) or (self._is_stale(name, stage) and self._take_over(name))
        except httpx.HTTPError as error:
            self._say(f"{stage}: cannot ask whether another machine builds it ({error}); building it here")
            return True
        if taken:
            self._held.add(name)
        else:
            self._ask_again[name] = time.monotonic() + _ASK_AGAIN_AFTER_S
        return taken

    def give_back(self, stage: str) -> None:
        """Give up the claim on `stage`."""
        name = _variable(self._remote, stage)
        if name in self._held:
            self._held.discard(name)
            with contextlib.suppress(httpx.HTTPError, ObjectNotFound):
                self._client.delete_variable_by_name(name)

    def beat(self) -> None:
        """Renew the claims of this run."""
        for name in sorted(self._held):
            with contextlib.suppress(httpx.HTTPError, ObjectNotFound):
                self._client.update_variable(VariableUpdate(name=name, value=self._value()))

    def _value(self) -> str:
        now = round(time.time())
        return json.dumps({"flow_run": str(self._flow_run), "host": socket.gethostname(), "beat": now})

    def _create(self, name: str) -> bool:
        try:
            self._client.create_variable(VariableCreate(name=name, value=self._value(), tags=["rebuild"]))
        except ObjectAlreadyExists:
            return False
        return True

    def _take_over(self, name: str) -> bool:
        with contextlib.suppress(ObjectNotFound):
            self._client.delete_variable_by_name(name)
        return self._create(name)

    def _is_stale(self, name: str, stage: str) -> bool:
        variable = self._client.read_variable_by_name(name)
        if variable is None:
            return True
        holder = json.loads(str(variable.value))
        if name not in self._ask_again:
            self._say(f"{stage}: being built on {holder['host']} by flow run {holder['flow_run']}; waiting for it")
        if time.time() - holder["beat"] > _SILENT_AFTER_S:
            return True
        try:
            state = self._client.read_flow_run(UUID(holder["flow_run"])).state
        except ObjectNotFound:
            return True
        return state is None or state.is_final()


def _variable(remote: str, stage: str) -> str:
    """A variable's name may hold small letters, digits, dashes and underscores only."""
    return "build_" + re.sub(r"[^a-z0-9]+", "-", f"{remote}-{stage}".lower()).strip("-")[-200:]


@contextlib.contextmanager
def claims(remote: str, flow_run: UUID, say: Callable[[str], None]) -> Iterator[Claims]:
    """Claims that are renewed inside the block and given up at its end."""
    with get_client(sync_client=True) as client:
        made, ended = Claims(client, remote, flow_run, say), threading.Event()
        context = contextvars.copy_context()  # it says which server is meant
        threading.Thread(target=context.run, args=(_keep_beating, made, ended), daemon=True).start()
        try:
            yield made
        finally:
            ended.set()


def _keep_beating(made: Claims, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_EVERY_S):
        made.beat()
