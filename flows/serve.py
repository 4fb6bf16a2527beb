"""Prefect server, schedules and workers on this one machine.

    python -m flows.serve [--port 4200] [--clone .prefect/clone] [--schedule prefect.yaml]

Ctrl-C ends all of it. The scheduled runs work in a clone of their own, which shares DVC's cache with this one:
`dvc repro` restores here in the morning what they built at night, and no working tree is touched.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.settings import get_current_settings
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.clone import make_clone
from tasks.errors import RebuildError
from tasks.loopback import use_direct_loopback
from tasks.processes import environment
from tasks.server import answers, write_note

_SUPERVISOR = Path(__file__).parents[1] / "tasks/supervise.py"
_START_SECONDS = 120.0


class Serving:
    """The processes of one machine; all of them end with this one, however it ends."""

    def __init__(self, home: Path, port: int, clone: Path) -> None:
        """`home` holds Prefect's database; the workers run in `clone`."""
        self.url = f"http://127.0.0.1:{port}/api"
        self._port, self._clone = port, clone
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = environment(
            {
                "PREFECT_HOME": str(home),
                "PREFECT_API_URL": self.url,
                "PREFECT_UI_API_URL": self.url,  # or the UI would ask port 4200
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
                "REBUILD_CLONE": str(clone),
                # The clone's flows, not those of the current folder.
                "PYTHONPATH": os.pathsep.join([str(clone), *filter(None, [os.environ.get("PYTHONPATH")])]),
            }
        )

    def start_server(self) -> None:
        """Start the Prefect server and wait until it answers. Raises: RebuildError when it does not."""
        if answers(self.url):
            raise RebuildError(
                f"A server already answers at {self.url}.\nStop it, or choose another port: --port {self._port + 1}"
            )
        self._start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self._port))
        began = time.monotonic()
        while not answers(self.url):
            self.check()
            if time.monotonic() - began > _START_SECONDS:
                raise RebuildError(f"The Prefect server did not answer within {_START_SECONDS:.0f} s; see above.")
            time.sleep(0.5)

    def deploy(self, schedule: Path) -> list[str]:
        """Create the work pools and deployments of a `prefect.yaml`; the names of the pools."""
        pools = pools_of(schedule)
        for pool in pools:
            self._run("work-pool", "create", pool, "--type", "process", "--overwrite")
        self._run("--no-prompt", "deploy", "--all", "--prefect-file", str(schedule))
        return pools

    def start_worker(self, pool: str) -> None:
        """Start a worker for `pool`. Runs of one clone never overlap, whatever the worker's limit."""
        self._start(f"worker {pool}", "worker", "start", "--pool", pool, "--limit", "2")

    def check(self) -> None:
        """Raises: RebuildError when one of the processes has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise RebuildError(f"The {name} ended with exit code {child.returncode}; see its output above.")

    def stop(self) -> None:
        """End the workers, then the server."""
        for child in reversed(self._children.values()):
            if child.stdin is not None:
                child.stdin.close()  # the lifeline of tasks/supervise.py
            child.wait()

    def _start(self, name: str, *arguments: str) -> None:
        self._children[name] = subprocess.Popen(
            [sys.executable, str(_SUPERVISOR), sys.executable, "-m", "prefect", *arguments],
            cwd=self._clone,
            env=self._environment,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=self._clone,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RebuildError(f"`prefect {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}")


def pools_of(schedule: Path) -> list[str]:
    """The work pools that the deployments of a `prefect.yaml` use. Raises: RebuildError when it names none."""
    try:
        content: Mapping[str, Sequence[Mapping[str, Mapping[str, str]]]] = YAML(typ="safe").load(schedule)
        return list(dict.fromkeys(deployment["work_pool"]["name"] for deployment in content["deployments"]))
    except (OSError, YAMLError, TypeError, KeyError) as error:
        raise RebuildError(
            f"{schedule} is no schedule: its `deployments` must be a list, each with `work_pool: {{name: …}}` "
            f"({type(error).__name__}: {' '.join(str(error).split())}).\nCorrect it; prefect.yaml is an example."
        ) from error


def main() -> int:
    """Serve until Ctrl-C; 0 then, 2 when something could not start or ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=4200, help="of the server, on loopback (default: 4200)")
    parser.add_argument("--clone", type=Path, help="where scheduled runs work (default: .prefect/clone)")
    parser.add_argument("--schedule", type=Path, default=Path("prefect.yaml"), help="default: prefect.yaml")
    given = parser.parse_args()
    if not 0 < given.port < 2**16:
        parser.error(f"--port {given.port}: a port is a number from 1 to 65535")
    root, home = Path.cwd(), get_current_settings().home.resolve()
    clone = (given.clone or home / "clone").resolve()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        use_direct_loopback()
    except RebuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    serving = Serving(home, given.port, clone)
    try:
        pools_of(given.schedule)
        home.mkdir(parents=True, exist_ok=True)
        print("Preparing a clone for the scheduled runs …", flush=True)
        make_clone(root, clone)
        print("Starting the Prefect server, 10 to 60 s …", flush=True)
        serving.start_server()
        write_note(home, serving.url)
        print("Creating the deployments …", flush=True)
        for pool in serving.deploy(given.schedule.resolve()):
            serving.start_worker(pool)
        print(f"Ready: {serving.url.removesuffix('/api')} shows schedules and runs. Ctrl-C ends all of it.", flush=True)
        while True:
            serving.check()
            time.sleep(1.0)
    except KeyboardInterrupt:
        print("Stopping …", flush=True)
        return 0
    except RebuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        serving.stop()


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)  # this server and no other
    sys.exit(main())
