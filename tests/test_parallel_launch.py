"""A stage that starts itself again: this file is a test, and the stage."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from distill.parallel.faults import batch_faults, machine_faults, micro_batch_faults
from distill.parallel.hosts import Host, read_hostfile
from distill.parallel.launch import HALVINGS, end_worker, relaunch_if_asked
from distill.project.errors import DataError, SettingsError, run_stage
from distill.runs.hardware import HardwareSettings
from tests.import_closure import ROOT

HOSTS = "# two names of this machine\nlocalhost slots=1\n127.0.0.1 slots=2\n"
# Runs what it is asked to run on another machine on this one, with a login's environment; `absent` cannot be reached.
SSH = """#!/bin/sh
for last; do host=$name; name=$last; done
[ "$host" = absent ] && { echo "ssh: Could not resolve hostname absent" >&2; exit 255; }
exec env -i PATH="$PATH" HOME="$HOME" PYTHONPATH="$PYTHONPATH" sh -c "$last"
"""
# The tasks of an allocation of two machines with two tasks each, on this one; the first that fails ends the others.
SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys, time
words = [word for word in sys.argv[1:] if word.startswith("--")]
command, count = sys.argv[1 + len(words):], int(words[0].removeprefix("--ntasks="))
assert "--kill-on-bad-exit=1" in words
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % 2),
    "SLURM_NODEID": str(i // 2), "SLURM_STEP_NUM_TASKS": str(count)}) for i in range(count)]
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
while not any(codes := [task.poll() for task in tasks]) and None in codes:
    time.sleep(0.05)
failed = [code for code in codes if code]
for number, task in enumerate(tasks):
    if task.returncode and task.returncode < 0:
        print(f"srun: error: node{number // 2}: task {number}: Killed", file=sys.stderr)
    task.kill()
sys.exit(failed[0] if failed and failed[0] > 0 else 128 - failed[0] if failed else 0)
"""


def main() -> None:
    """Say who this process is; then end as the argument wants."""
    wanted = sys.argv[1]
    relaunch_if_asked(HardwareSettings.model_validate_json(os.environ.get("HARDWARE", '{"processes": 2}')))
    rank, halvings = os.environ["RANK"], os.environ.get(HALVINGS, "0")
    Path(f"{wanted}-{halvings}-{rank}-of-{os.environ['WORLD_SIZE']}").touch()
    if wanted == "refused" and rank == "1":
        raise DataError("there is a fault; mend it")
    if wanted == "memory" and halvings != "2" and rank == "1":
        raise SystemExit(75)
    if wanted in ("killed", "frozen") and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL if wanted == "killed" else signal.SIGSTOP)
    if wanted == "odd" and rank == "1":
        os._exit(7)
    if wanted == "environment":
        seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OURS", "TERM")}
        Path(f"environment-{rank}.json").write_text(json.dumps(seen))
    if wanted == "met":
        from distill.parallel.meeting import one_voice  # torch takes seconds to import
        from distill.parallel.processes import joined_processes

        with one_voice(), joined_processes() as processes:
            assert processes.joined([processes.rank] * 3) == list(range(processes.count)) * 3
            if "WAIT" in os.environ:
                Path("waiting").touch()
                time.sleep(float(os.environ["WAIT"]))
            if os.environ.get("FAULT") == rank:
                raise ValueError("an odd thing\nin two lines")
            processes.wait()
    elif wanted == "endless" or (rank == "0" and wanted not in ("sound", "environment") and halvings != "2"):
        time.sleep(60)  # as one that waits for the other
        Path("finished").touch()
    end_worker()


def started(wanted: str, hardware: Mapping[str, object] | None = None, **variables: str) -> subprocess.Popen[str]:
    path = f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **variables}
    if hardware is not None:
        environment["HARDWARE"] = json.dumps(dict(hardware))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.test_parallel_launch", wanted],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What a process has said, that ends with `code`, and leaves nothing behind."""
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    wait_for(lambda: not running())
    return said


def running() -> list[int]:
    """The processes that work in this test's folder, but for this one."""
    found = psutil.process_iter(["pid", "cwd", "status"])
    here = [p.info for p in found if p.info["cwd"] == str(Path.cwd()) and p.info["status"] != psutil.STATUS_ZOMBIE]
    return [info["pid"] for info in here if info["pid"] != os.getpid()]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hosts() -> dict[str, object]:
    """Settings for two names of this machine, the second of which is reached by what stands for ssh."""
    Path("hosts.txt").write_text(HOSTS)
    write_program("ssh", SSH)
    return {"hostfile": "hosts.txt"}


def write_program(name: str, text: str) -> None:
    Path(name).write_text(text)
    Path(name).chmod(0o755)


def seen() -> list[str]:
    return sorted(path.name for path in Path().glob("*-of-*"))


def test_exit_codes_arrive_and_memory_starts_again() -> None:
    """Side by side: starting Python is what takes the time."""
    running = {name: started(name) for name in ("sound", "refused", "memory")}
    said = {name: process.communicate(timeout=120)[1] for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == {"sound": 0, "refused": 2, "memory": 0}
    assert "error: there is a fault; mend it" in said["refused"]
    assert said["memory"].count("starting again with half the micro-batch") == 2
    both = [
        f"{name}-{rank}-of-2" for name in ("memory-0", "memory-1", "memory-2", "refused-0", "sound-0") for rank in "01"
    ]
    assert set(seen()) <= set(both) and {"memory-2-0-of-2", "sound-0-1-of-2", "refused-0-1-of-2"} <= set(seen())


def test_a_fault_of_one_process_is_named_and_ends_all() -> None:
    running = {name: started(name) for name in ("killed", "odd")}
    fault = started("met", FAULT="1")
    said = {name: process.communicate(timeout=120)[1] for name, process in running.items()}
    assert {process.returncode for process in running.values()} == {1, 7}
    assert said["killed"].startswith("error: process 1 of 2 was killed (SIGKILL), most often for want of memory: lower")
    assert said["odd"].startswith("error: process 1 of 2 ended with exit code 7;")
    sentence, *trace = ended(fault, 1).splitlines()
    name = f"error: process 1 of 2 on {socket.gethostname()} failed: ValueError: an odd thing in two lines"
    assert (sentence, trace[0], trace[-2:]) == (
        name,
        "Traceback (most recent call last):",
        ["ValueError: an odd thing", "in two lines"],
    ), "the other process, whose connection broke, says nothing"


@pytest.mark.slow
def test_a_frozen_process_is_named_and_ends_all() -> None:
    said = ended(started("frozen"), 1)
    assert said.startswith("error: process 1 of 2 has been stopped (SIGSTOP) for 20 s while the others wait;")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_processes(number: int) -> None:
    process = started("endless")
    wait_for(lambda: len(seen()) == 2)
    process.send_signal(number)
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    assert ended(process, 128 + number).splitlines() == [
        f"{word}: nothing half-written was kept; run the same command to continue"
    ]


def test_nothing_outlives_its_launcher() -> None:
    process = started("endless")
    wait_for(lambda: len(seen()) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not running(), seconds=2)
    assert not Path("finished").exists()


def test_a_second_run_of_a_stage_waits_for_the_first() -> None:
    first = started("endless", DVC_STAGE="sft@small")
    wait_for(lambda: len(seen()) == 2)
    second = started("sound", DVC_STAGE="sft@small")
    assert second.stderr is not None
    assert second.stderr.readline() == "an earlier process still runs sft@small; waiting for it to end\n"
    assert "sound-0-0-of-2" not in seen()
    first.terminate()
    ended(second, 0)
    assert {"sound-0-0-of-2", "sound-0-1-of-2"} <= set(seen())


def test_two_stages_meet_at_ports_of_their_own_and_a_taken_one_is_named() -> None:
    both = [started("met"), started("met")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = started("met", {"processes": 2, "port": port}).communicate(timeout=120)[1]
    assert said.startswith(f"error: hardware.port: {port} cannot be had on {socket.gethostname()} (Address already in")
    for process in both:
        assert ended(process, 0) == ""


def test_a_hostfile_starts_the_stage_on_every_host(hosts: dict[str, object]) -> None:
    assert ended(started("met", hosts), 0) == ""
    assert seen() == [f"met-0-{rank}-of-3" for rank in range(3)]


def test_an_absent_host_is_named_at_once_and_ends_the_others(hosts: dict[str, object]) -> None:
    Path("hosts.txt").write_text("localhost slots=1\n127.0.0.1 slots=1\nabsent slots=1\n")
    before = time.monotonic()
    said = ended(started("endless", hosts), 255)
    assert time.monotonic() - before < 30
    assert "error: host absent cannot be reached" in said


def test_a_fault_on_another_host_is_named_and_nothing_stays(hosts: dict[str, object]) -> None:
    assert "process 1 of 3 on 127.0.0.1 was killed (SIGKILL)" in ended(started("killed", hosts), 1)
    process = started("endless", hosts)
    wait_for(lambda: sum("endless" in name for name in seen()) == 3)
    process.kill()
    wait_for(lambda: not running(), seconds=5)


def test_hosts_are_guarded_each_by_a_lock_of_its_own(hosts: dict[str, object]) -> None:
    """One whose launcher is gone may still be ending."""
    Path(".resume/running").mkdir(parents=True)
    with Path(".resume/running/kd@small.127.0.0.1").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = started("met", hosts, DVC_STAGE="kd@small")
        assert process.stderr is not None
        waits = "an earlier process still runs kd@small on 127.0.0.1; waiting for it to end\n"
        assert process.stderr.readline() == waits
    ended(process, 0)


def test_what_a_host_needs_travels_and_the_rest_stays(hosts: dict[str, object]) -> None:
    kept = {"LD_LIBRARY_PATH": "/libraries", "OURS": "yes", "TERM": "mine"}
    ended(started("environment", hosts, CUDA_VISIBLE_DEVICES="2,3", **kept), 0)
    assert json.loads(Path("environment-2.json").read_text()) == {**kept, "CUDA_VISIBLE_DEVICES": "2,3", "TERM": None}
    Path("hosts.txt").write_text("localhost slots=1\n127.0.0.1 slots=2 devices=4,5\n")
    ended(started("environment", hosts, CUDA_VISIBLE_DEVICES="GPU-1234", **kept), 0)
    devices = [json.loads(Path(f"environment-{rank}.json").read_text())["CUDA_VISIBLE_DEVICES"] for rank in range(3)]
    assert devices == ["GPU-1234", "4,5", "4,5"]


ALLOCATION = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def on_slurm(wanted: str, **variables: str) -> subprocess.Popen[str]:
    write_program("srun", SRUN)
    return started(wanted, {"processes": "slurm"}, **ALLOCATION, **variables)


def test_srun_starts_the_processes_of_an_allocation() -> None:
    assert ended(on_slurm("sound"), 0) == ""
    assert seen() == [f"sound-0-{rank}-of-4" for rank in range(4)]
    said = ended(on_slurm("killed"), 137)
    assert "srun: error: node0: task 1: Killed" in said and "error: srun ended with exit code 137;" in said
    process = on_slurm("endless")
    wait_for(lambda: sum("endless" in name for name in seen()) == 4)
    process.send_signal(signal.SIGINT)
    assert ended(process, 130).startswith("interrupted: ")


@pytest.mark.slow
def test_processes_that_srun_has_started_meet_name_faults_and_end_with_the_launcher() -> None:
    assert ended(on_slurm("met"), 0) == ""
    assert f"error: process 3 of 4 on {socket.gethostname()} failed" in ended(on_slurm("met", FAULT="3"), 1)
    process = on_slurm("met", FAULT="none", WAIT="60")
    wait_for(lambda: Path("waiting").exists())
    process.kill()
    wait_for(lambda: not running(), seconds=10)


def test_one_process_starts_nothing() -> None:
    relaunch_if_asked(HardwareSettings())


def test_a_hostfile_is_read_or_refused_by_line() -> None:
    path = Path("hosts.txt")
    path.write_text(HOSTS)
    assert read_hostfile(path) == [Host("localhost", 1), Host("127.0.0.1", 2)]
    for text, fault in (("a slots=0", "hosts.txt:1: `a slots=0` is no host"), ("# a", "names no host")):
        path.write_text(text)
        with pytest.raises(SettingsError, match=fault):
            read_hostfile(path)


CPU = [
    ({}, "float16", "recipe.dtype: float16 is not trained, AdamW would divide by 0 in it; use bfloat16"),
    ({"zero_stage": 0}, "bfloat16", "use zero_stage: 1"),
    ({}, "bfloat16", "hardware.zero_stage: null keeps no float32 weights beside bfloat16 ones"),
    ({"teacher": {"dtype": "float16"}}, "float32", "use bfloat16"),
    ({"teacher": {"offload": True, "shard": True}}, "float32", "use offload: false"),
    ({"offload": "optimizer"}, "float32", "use zero_stage: 1 or offload: none"),
    ({"offload": "all", "zero_stage": 2}, "float32", "use offload: optimizer"),
    ({"offload": "all"}, "float32", "use zero_stage: 3"),
    ({"processes": "devices"}, "float32", "use processes: 1"),
    ({"hostfile": "absent"}, "float32", "absent does not exist"),
    ({"hostfile": "hosts.txt", "processes": 2}, "float32", "remove `processes`"),
]


@pytest.mark.parametrize(("given", "dtype", "fix"), CPU)
def test_what_cannot_work_is_refused_with_the_nearest_that_does(
    given: dict[str, object], dtype: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("hosts.txt").write_text(HOSTS)
    assert fix in "\n".join(machine_faults(HardwareSettings.model_validate(given), dtype))


def test_sound_settings_have_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine_faults(HardwareSettings(processes=2, zero_stage=1), "bfloat16") == []
    assert machine_faults(HardwareSettings(processes=2), "bfloat16", lora=True) == []  # the adapter is in float32
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert machine_faults(HardwareSettings(processes="devices"), "float32") == []
    (fault,) = machine_faults(HardwareSettings(processes=4), "float32")
    assert fault.endswith("use processes: 2")


def test_a_compiler_is_asked_for_before_deepspeed_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (fault,) = machine_faults(HardwareSettings(zero_stage=2), "float32")
    assert fault.endswith("use zero_stage: null")


def test_batches_that_cannot_be_divided_are_named() -> None:
    hardware = HardwareSettings(processes=3, micro_batch=4)
    assert batch_faults(hardware, {"a.minibatch": 64, "a.lm_batch": 6}) == [
        "a.minibatch: 64 cannot be divided between 3 processes; use 2 processes or minibatch: 66"
    ]
    (fault,) = micro_batch_faults(hardware, {"a.batch_size": 18})
    assert fault.endswith("use hardware.micro_batch: 3")
    assert micro_batch_faults(HardwareSettings(processes=3, micro_batch="auto"), {"a.batch_size": 18}) == []


if __name__ == "__main__":
    run_stage(main)
