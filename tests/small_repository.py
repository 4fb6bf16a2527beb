"""A small DVC repository whose stages take tenths of a second, and a real Prefect server on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import TaskRunSort

from flows.rebuild import rebuild
from tasks.server import answers

ROOT = Path(__file__).resolve().parents[1]

# A stage: `work.py OUT STEPS [DEP …]`. Each step takes 0.1 s and leaves a checkpoint; the files fail-OUT (fail once),
# broken-OUT (fail always) and hold-OUT (wait while it exists) let a test steer it. log.txt tells what really ran.
WORK = """
import json, os, pathlib, sys, time

out, steps, *deps = sys.argv[1:]
steps, stage = int(steps), os.environ["DVC_STAGE"]
scratch = pathlib.Path(".resume")
(scratch / "progress").mkdir(parents=True, exist_ok=True)
checkpoint = scratch / (stage + ".step")
start = int(checkpoint.read_text()) if checkpoint.exists() else 0
with open("log.txt", "a") as log:
    print(stage, start, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), time.time(), file=log, flush=True)
for step in range(start, steps):
    time.sleep(0.1)
    checkpoint.write_text(str(step + 1))
    state = {"step": step + 1, "steps": steps, "eta_s": 0.1 * (steps - step), "loss": 1 / (step + 1)}
    note = scratch / "progress" / (stage + ".json")
    note.with_suffix(".part").write_text(json.dumps({**state, "resumed_from": start or None}))
    note.with_suffix(".part").replace(note)
    while pathlib.Path("hold-" + out).exists():
        time.sleep(0.05)
    if pathlib.Path("fail-" + out).exists():
        pathlib.Path("fail-" + out).unlink()
        sys.exit("lost the device")
if pathlib.Path("broken-" + out).exists():
    print("error: the data is wrong; mend it", file=sys.stderr)
    sys.exit(2)
checkpoint.unlink(missing_ok=True)
print("made", out)
pathlib.Path(out).write_text("".join(pathlib.Path(dep).read_text() for dep in deps) + out + "\\n")
"""

SCORE = """
import json, pathlib

value = float(pathlib.Path("params.yaml").read_text().split("quality: ")[1].split()[0])
pathlib.Path("last.txt").read_text()
pathlib.Path("results").mkdir(exist_ok=True)
numbers = {"minillm": {"toy": {"rouge_l": {"mean": value, "std": 0.1, "ci95": [value - 1, value + 1]}}}}
pathlib.Path("results/tiny.json").write_text(json.dumps(numbers))
"""

PIPELINE = """
stages:
  first:
    cmd: python work.py first.txt 1
    deps: [work.py]
    params: [first]
    outs: [first.txt]
  left:
    cmd: python work.py left.txt 10 first.txt
    deps: [work.py, first.txt]
    params: [left]
    outs: [left.txt]
    meta: {gpus: 1, retries: 1, retry_delay_s: 0}
  right:
    cmd: python work.py right.txt 10 first.txt
    deps: [work.py, first.txt]
    params: [right]
    outs: [right.txt]
    meta: {gpus: 1}
  last:
    cmd: python work.py last.txt 1 left.txt right.txt
    deps: [work.py, left.txt, right.txt]
    outs: [last.txt]
  score:
    cmd: python score.py
    deps: [score.py, last.txt]
    params: [quality]
    metrics:
      - results/tiny.json: {cache: false}
"""
PARAMS = "first: 1\nleft: 1\nright: 1\nquality: 20.0\n"


def run(root: Path, *command: str) -> str:
    """Run a command in `root`; its standard output. Fails the test with the command's own words."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed: {done.stdout}{done.stderr}"
    return done.stdout


def dvc(root: Path, *arguments: str) -> str:
    """Run DVC in `root`."""
    return run(root, sys.executable, "-m", "dvc", *arguments)


def commit(root: Path, message: str) -> None:
    """Commit everything in `root`."""
    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--message", message)


def with_flows(root: Path) -> None:
    """Put the project's own flows and schedules into a small repository, as every clone of the project has them."""
    for folder in ("flows", "tasks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("prefect.yaml", "prefect.toml"):
        shutil.copy(ROOT / file, root / file)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ran(root: Path) -> list[str]:
    """The names of the stages whose command ran, in the order they started."""
    log = root / "log.txt"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def until(condition: Callable[[], object], seconds: float = 120.0) -> float:
    """Wait for `condition`; the seconds it took. Fails the test when it does not come true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"still not true after {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def change(root: Path, old: str, new: str) -> None:
    """Change a setting in params.yaml, e.g. `left: 1` to `left: 2`."""
    params = root / "params.yaml"
    before = params.read_text()
    assert old in before
    params.write_text(before.replace(old, new))


def build(**parameters: Any) -> State[Any]:
    """Run the rebuild flow in the current folder; its final state."""
    state: State[Any] = rebuild(**parameters, return_state=True)
    return state


def states(client: SyncPrefectClient, state: State[Any]) -> dict[str, tuple[str, str]]:
    """The tasks of a run with the name and the message of the state that the UI shows."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    found: dict[str, tuple[str, str]] = {}

    def all_final() -> bool:
        # Task states travel as events and arrive a moment after the flow run's own.
        asked = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        runs = client.read_task_runs(flow_run_filter=asked, sort=TaskRunSort.NAME_ASC, limit=200)
        found.update({r.name: (r.state.name or "", r.state.message or "") for r in runs if r.state})
        return all(r.state and (r.state.is_final() or r.state.name == "NotReady") for r in runs)

    until(all_final)
    return found


def names(client: SyncPrefectClient, state: State[Any]) -> dict[str, str]:
    """The tasks of a run with the name of the state that the UI shows."""
    return {name: shown for name, (shown, _) in states(client, state).items()}


def artifacts(client: SyncPrefectClient, state: State[Any]) -> dict[str, Any]:
    """What a run left in the UI, by key."""
    run_id = state.state_details.flow_run_id
    found = ask(client, "artifacts", flow_runs={"id": {"any_": [str(run_id)]}})
    return {artifact["key"]: artifact for artifact in found}


def events(client: SyncPrefectClient, name: str) -> list[Any]:
    """The events of that name that the server has."""
    found: list[Any] = ask(client, "events", filter={"event": {"name": [name]}})["events"]
    return found


def logged(client: SyncPrefectClient, state: State[Any]) -> list[str]:
    """The log lines of a run and its tasks that the server has."""
    run_id = state.state_details.flow_run_id
    return [log["message"] for log in ask(client, "logs", logs={"flow_run_id": {"any_": [str(run_id)]}})]


def ask(client: SyncPrefectClient, what: str, **filters: Any) -> Any:
    """The server's answer to a filter; the client's own methods send nulls that the server refuses."""
    return client._client.post(f"/{what}/filter", json=filters).json()


class Server:
    """A Prefect server on loopback with its own SQLite file; it can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLIENT_MAX_RETRIES": "2",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "DO_NOT_TRACK": "1",
        }

    def start(self) -> None:
        # Under the supervisor, so that the server cannot outlive the tests, however they end.
        supervised = [sys.executable, str(ROOT / "tasks/supervise.py")]
        server = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*supervised, *server, "--port", str(self.port)],
            env={**os.environ, **self.environment},
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=(self.home / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        until(lambda: answers(self.url), seconds=300)

    def kill(self) -> None:
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            process.kill()
        self._process.wait()
