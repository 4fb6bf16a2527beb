"""A small DVC repository whose stages take tenths of a second, and one real Prefect server for a whole test session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tasks.server import answers

ROOT = Path(__file__).resolve().parents[1]

# A stage: `work.py OUT STEPS [DEP …]`. Each step takes 0.1 s and leaves a checkpoint; the files fail-OUT (fail once),
# broken-OUT (fail always) and hold-OUT (wait while it exists) let a test steer it. log.txt tells what really ran.
_WORK = """
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

_SCORE = """
import json, pathlib

value = float(pathlib.Path("params.yaml").read_text().split("quality: ")[1].split()[0])
pathlib.Path("last.txt").read_text()
pathlib.Path("results").mkdir(exist_ok=True)
numbers = {"minillm": {"toy": {"rouge_l": {"mean": value, "std": 0.1, "ci95": [value - 1, value + 1]}}}}
pathlib.Path("results/tiny.json").write_text(json.dumps(numbers))
"""

_PIPELINE = """
stages:
  first:
    cmd: python work.py first.txt 1
    deps: [work.py]
    params: [first]
    outs: [first.txt]
  left:
    cmd: python work.py left.txt 5 first.txt
    deps: [work.py, first.txt]
    params: [left]
    outs: [left.txt]
    meta: {gpus: 1, retries: 1}
  right:
    cmd: python work.py right.txt 5 first.txt
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
_PARAMS = "first: 1\nleft: 1\nright: 1\nquality: 20.0\n"


def run(root: Path, *command: str) -> str:
    """Run a command in `root`; its standard output. Fails the test with the command's own words."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed: {done.stdout}{done.stderr}"
    return done.stdout


def dvc(root: Path, *arguments: str) -> str:
    """Run DVC in `root`."""
    return run(root, sys.executable, "-m", "dvc", *arguments)


def ran(root: Path) -> list[str]:
    """The names of the stages whose command ran, in the order they started."""
    log = root / "log.txt"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def until(condition: Callable[[], object], seconds: float = 30.0) -> float:
    """Wait for `condition`; the seconds it took. Fails the test when it does not come true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"still not true after {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that `repository` copies: committed, never built."""
    root = tmp_path_factory.mktemp("template") / "small"
    root.mkdir()
    for name, content in (
        ("work.py", _WORK),
        ("score.py", _SCORE),
        ("dvc.yaml", _PIPELINE),
        ("params.yaml", _PARAMS),
    ):
        (root / name).write_text(content)
    (root / ".gitignore").write_text("/log.txt\n/.resume/\n/hold-*\n/fail-*\n/broken-*\n")
    run(root, "git", "init", "--quiet", "--initial-branch", "main")
    run(root, "git", "config", "user.email", "test@example.org")
    run(root, "git", "config", "user.name", "Test")
    dvc(root, "init", "--quiet")
    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--message", "Start")
    return root


@pytest.fixture
def repository(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh small repository, and the current folder; no GPU is visible, leases lie in a folder of the test's own."""
    root = tmp_path / "small"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("GPU_LEASES", str(tmp_path / "leases"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return root


class Server:
    """A Prefect server on loopback with its own SQLite file; it can be killed and started again."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "DO_NOT_TRACK": "1",
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            env={**os.environ, **self.environment},
            cwd=self.home,
            stdout=(self.home / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until(lambda: answers(self.url), seconds=120)

    def kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, 9)
        self._process.wait()


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a process: starting it costs ten seconds of CPU."""
    server = Server(tmp_path_factory.mktemp("prefect"))
    server.start()
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.home}):
        yield server
    server.kill()


@pytest.fixture
def prefect_server(session_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The session's server, also for the processes a test starts."""
    for name, value in session_server.environment.items():
        monkeypatch.setenv(name, value)
    return session_server


@pytest.fixture
def client(prefect_server: Server) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made
