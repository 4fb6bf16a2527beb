"""What a rebuild survives: failing stages, cancels, killed processes, a server that goes away, a second rebuild."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelling

from tasks.locks import hold_clone
from tests.small_repository import Server, build, dvc, logged, names, ran, states, until

pytest_plugins = ["tests.prefect_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


class Rebuild:
    """`python -m flows.rebuild` in a process of its own."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self.output = root.parent / f"output-{len(list(root.parent.glob('output-*')))}.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.rebuild", *arguments],
            cwd=root,
            stdout=self.output.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def said(self) -> str:
        return self.output.read_text()

    def ended(self, seconds: float = 60.0) -> int:
        until(lambda: self.process.poll() is not None, seconds)
        return self.process.returncode


@pytest.fixture
def held(repository: Path) -> Iterator[Path]:
    """A file that makes the stage `left` wait after its first step, as long as it exists."""
    hold = repository / "hold-left.txt"
    hold.touch()
    yield hold
    hold.unlink(missing_ok=True)


def processes_in(root: Path, besides: int = 0) -> list[str]:
    """What still runs in a clone."""
    running = psutil.process_iter(["cwd", "cmdline"])
    others = [process.info for process in running if process.pid not in (os.getpid(), besides)]
    return [" ".join(info["cmdline"]) for info in others if info["cwd"] == str(root)]


def left_runs(root: Path) -> bool:
    return "left" in ran(root)


def last_run(client: SyncPrefectClient) -> FlowRun:
    return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def is_free(root: Path) -> bool:
    """Whether nobody holds the clone."""
    with hold_clone(root, "test", lambda _: None, iter([False, True]).__next__) as clone:
        return clone is not None


def test_retry_continues_from_the_checkpoint(
    repository: Path, prefect_server: Server, client: SyncPrefectClient
) -> None:
    (repository / "fail-left.txt").touch()
    state = build()
    assert state.is_completed()
    name, message = states(client, state)["left"]
    assert name == "Built"
    assert message.startswith("resumed from step 1;")
    assert ran(repository).count("left") == 2
    until(lambda: "resumed from step 1" in logged(client, state))


def test_a_failure_stops_its_descendants_only(
    repository: Path, prefect_server: Server, client: SyncPrefectClient
) -> None:
    (repository / "broken-left.txt").touch()
    state = build()
    assert names(client, state) == {
        "first": "Built",
        "left": "Failed",
        "right": "Built",
        "last": "NotReady",
        "score": "NotReady",
    }
    assert state.is_failed()
    message = state.message or ""
    assert "left: failed to run: python work.py left.txt 10 first.txt, exited with 2" in message
    assert "error: the data is wrong; mend it" in message
    assert message.endswith("continue with: python -m flows.rebuild")
    assert ran(repository).count("left") == 1, "refused input is not tried again"

    (repository / "broken-left.txt").unlink()
    state = build()
    assert names(client, state)["right"] == "UpToDate"
    assert names(client, state)["left"] == "Built"


@pytest.mark.parametrize(
    "way", ["server", pytest.param("ctrl-c", marks=pytest.mark.slow), pytest.param("term", marks=pytest.mark.slow)]
)
def test_cancel_ends_everything_within_ten_seconds(
    repository: Path, prefect_server: Server, client: SyncPrefectClient, held: Path, way: str
) -> None:
    rebuild = Rebuild(repository)
    until(lambda: left_runs(repository))
    run = last_run(client)
    if way == "server":
        client.set_flow_run_state(run.id, Cancelling())
    else:
        rebuild.process.send_signal(signal.SIGINT if way == "ctrl-c" else signal.SIGTERM)
    stages_end = until(lambda: not processes_in(repository, besides=rebuild.process.pid), seconds=20)
    assert stages_end < 10
    code = rebuild.ended()
    assert is_free(repository)
    ended = client.read_flow_run(run.id).state
    assert ended is not None
    if way == "term":
        assert ended.is_crashed() or ended.is_cancelled()
    else:
        assert code == 130
        assert ended.is_cancelled()
        assert "Continue with: python -m flows.rebuild" in rebuild.said()

    held.unlink()
    state = build()
    assert state.is_completed()
    assert states(client, state)["left"][1].startswith("resumed from step 1;")


def test_a_killed_run_is_recognised(
    repository: Path, prefect_server: Server, client: SyncPrefectClient, held: Path
) -> None:
    rebuild = Rebuild(repository)
    until(lambda: left_runs(repository))
    killed = last_run(client)
    rebuild.process.kill()
    rebuild.process.wait()
    # No word from the dead process: its stages notice by themselves, and hold the clone until they are gone.
    held.unlink()
    state = build()
    assert state.is_completed()
    until(lambda: any("an earlier run was killed" in line for line in logged(client, state)))
    buried = client.read_flow_run(killed.id).state
    assert buried is not None
    assert buried.is_crashed()
    assert not processes_in(repository)


def test_a_dvc_lock_that_a_kill_cut_off_is_mended(
    repository: Path, prefect_server: Server, client: SyncPrefectClient
) -> None:
    assert build().is_completed()
    log, lock = ran(repository), repository / "dvc.lock"
    lock.write_text(lock.read_text()[:300] + "\n  a: [")
    state = build()
    assert state.is_completed()
    assert ran(repository) == log, "all of it came from the run cache"
    until(lambda: any(line.startswith("dvc.lock was cut off by a kill") for line in logged(client, state)))


def test_a_second_rebuild_says_who_it_waits_for(
    repository: Path, prefect_server: Server, client: SyncPrefectClient, held: Path
) -> None:
    first = Rebuild(repository)
    until(lambda: left_runs(repository))
    threading.Timer(2.0, held.unlink).start()
    second = build()
    assert second.name == "UpToDate"
    assert first.ended() == 0
    assert sorted(ran(repository)) == ["first", "last", "left", "right"]
    waited = f"Waiting for this clone, held by process {first.process.pid} on"
    until(lambda: any(line.startswith(waited) for line in logged(client, second)))


@pytest.mark.slow
def test_training_survives_the_server(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Path
) -> None:
    server = Server(tmp_path)
    server.start()
    for name, value in {**server.environment, "PREFECT_CLIENT_MAX_RETRIES": "5"}.items():
        monkeypatch.setenv(name, value)
    rebuild = Rebuild(repository)
    until(lambda: left_runs(repository))
    server.kill()
    held.unlink()
    until(lambda: (repository / "left.txt").exists())
    server.start()
    rebuild.ended()
    assert ran(repository).count("left") == 1
    after = Rebuild(repository)
    assert after.ended() == 0, after.said()
    assert "'left' - Finished in state UpToDate" in after.said()
    assert "up to date" in dvc(repository, "status")
    server.kill()
