"""A training stage starts itself again as several processes, when its profile asks for more than one.

What torchrun's command line does, called as a library, so that the stage's own exit code arrives. The command that
DVC knows stays `python -m stages.<stage> …` on every machine.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from distill.parallel.faults import process_count
from distill.parallel.hosts import Host, read_hostfile
from distill.project.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from distill.runs.hardware import HardwareSettings

EXIT_OUT_OF_MEMORY = 75
"""How a process that shares its update with others says that its micro-batch was too large."""
HALVINGS = "DISTILL_MICRO_BATCH_HALVINGS"
"""How often that has happened: the micro-batch of a stage is divided by two so many times."""
_NODES = "DISTILL_NODE"
_PORT = 29517


def relaunch_if_asked(hardware: HardwareSettings) -> None:
    """Return at once in one ordinary process and in a started one; otherwise run the stage and exit with its code.

    Raises: SettingsError for a hostfile that cannot be used; SystemExit.
    """
    if "WORLD_SIZE" in os.environ:
        return
    if _NODES in os.environ:
        _run_as_node(os.environ[_NODES])
    hosts = read_hostfile(Path(hardware.hostfile)) if hardware.hostfile else []
    processes = process_count(hardware)
    if not hosts and processes == 1 and hardware.zero_stage is None:
        return
    while True:
        code = _run_on_hosts(hosts) if hosts else run_here(sys.orig_argv[1:], processes)
        if code != EXIT_OUT_OF_MEMORY:
            raise SystemExit(code)
        os.environ[HALVINGS] = str(int(os.environ.get(HALVINGS, "0")) + 1)
        print("out of memory: starting again with half the micro-batch, from the last stored state", file=sys.stderr)


def fitting_micro_batch(hardware: HardwareSettings, share: int) -> int:
    """The micro-batch of a process with `share` rows of each global batch, halved as often as it was too large."""
    micro_batch, halvings = hardware.largest_micro_batch(share), int(os.environ.get(HALVINGS, "0"))
    if not halvings:
        return micro_batch
    most = max(1, micro_batch >> halvings)
    return next(size for size in range(most, 0, -1) if share % size == 0)


@contextmanager
def smaller_next_time(micro_batch: int) -> Iterator[None]:
    """Out of memory where that cannot be mended in place, end in the way that starts a launched stage again."""
    from distill.runs.memory import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if micro_batch == 1 or "WORLD_SIZE" not in os.environ or not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        print(f"out of memory at micro-batch {micro_batch}: {said}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_OUT_OF_MEMORY) from None


def end_worker() -> None:
    """End a started process whose work is done, without the interpreter's clearing up.

    Threads of the libraries that connected it can abort there, and good work would be reported as failed.
    """
    if "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run_here(arguments: list[str], processes: int) -> int:
    """Run this interpreter with `arguments` in so many connected processes on this machine; the first exit code."""
    return _run(arguments, processes, nodes=1, node=0, endpoint="localhost:0")


def _run(arguments: list[str], processes: int, nodes: int, node: int, endpoint: str) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    alone = nodes == 1
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()) if alone else "stage",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint=endpoint,
        rdzv_configs={} if alone else {"rank": node},
        max_restarts=0,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        # Others end because the first did: the one that had something to say is not among the killed.
        return next((code for code in codes if code > 0), 1)
    except SignalException as stop:
        return EXIT_INTERRUPTED if stop.sigval == signal.SIGINT else EXIT_TERMINATED
    return 0


def _run_on_hosts(hosts: list[Host]) -> int:
    """Start the stage on every host over ssh; all see the same folder, and the first host's processes write.

    A host whose processes fail ends those of the others, which lose their connection.
    """
    command = shlex.join([sys.executable, *sys.orig_argv[1:]])
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PYTHON", "OMP_", "HF_", "NCCL_", "GLOO_", "DS_", "TORCH_", "TOKENIZERS_", HALVINGS))
        or name == "PATH"
    }
    running = []
    for number, host in enumerate(hosts):
        nodes = f"{len(hosts)},{number},{host.slots},{hosts[0].name}:{_PORT}"
        settings = shlex.join(f"{name}={value}" for name, value in {**kept, _NODES: nodes}.items())
        script = f"cd {shlex.quote(str(Path.cwd()))} && env {settings} {command}"
        # Twice -t: the remote processes end with the connection.
        running.append(
            subprocess.Popen(["ssh", "-tt", "-o", "BatchMode=yes", host.name, script], stdin=subprocess.DEVNULL)
        )
    try:
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            process.terminate()
    return EXIT_OUT_OF_MEMORY if EXIT_OUT_OF_MEMORY in codes else next((code for code in codes if code), 0)


def _run_as_node(place: str) -> NoReturn:
    """On a host that `_run_on_hosts` has reached: run this host's processes and exit with their code."""
    nodes, node, processes, endpoint = place.split(",")
    raise SystemExit(_run(sys.orig_argv[1:], int(processes), int(nodes), int(node), endpoint))
