"""A stage on several machines, by a hostfile or by Slurm; processes of this machine stand for the others."""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from distill.parallel.faults import machine_faults
from distill.parallel.hosts import Host, read_hostfile
from distill.project.errors import SettingsError
from distill.runs.hardware import HardwareSettings
from tests.launched_stage import ended, running, seen, started, wait_for, write_program

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
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hosts() -> dict[str, object]:
    """Settings for two names of this machine, the second of which is reached by what stands for ssh."""
    Path("hosts.txt").write_text(HOSTS)
    write_program("ssh", SSH)
    return {"hostfile": "hosts.txt"}


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


def test_a_started_process_does_not_judge_how_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = HardwareSettings(processes="slurm")
    (fault,) = machine_faults(hardware, "float32")
    assert "this is no Slurm allocation" in fault
    for name, value in {**ALLOCATION, "SLURM_STEP_NUM_TASKS": "4", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    (fault,) = machine_faults(hardware, "float32")
    assert "srun has started this command several times; start it once" in fault
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert machine_faults(hardware, "float32") == []


@pytest.mark.slow
def test_processes_that_srun_has_started_meet_name_faults_and_end_with_the_launcher() -> None:
    assert ended(on_slurm("met"), 0) == ""
    assert f"error: process 3 of 4 on {socket.gethostname()} failed" in ended(on_slurm("met", FAULT="3"), 1)
    process = on_slurm("met", FAULT="none", WAIT="60")
    wait_for(lambda: Path("waiting").exists())
    process.kill()
    wait_for(lambda: not running(), seconds=10)


def test_a_hostfile_is_read_or_refused_by_line() -> None:
    path = Path("hosts.txt")
    path.write_text(HOSTS)
    assert read_hostfile(path) == [Host("localhost", 1), Host("127.0.0.1", 2)]
    for text, fault in (
        ("a slots=0", "hosts.txt:1: `a slots=0` is no host"),
        ("a slots=1 gpus=2", "`a slots=1 gpus=2` is no host"),
        ("# a", "names no host"),
        ("a slots=1\na slots=2", "hosts.txt:2: `a` stands there twice"),
        ("-oProxyCommand=x slots=1", "is an option of ssh"),
        ("a slots=2 devices=0", "2 processes need as many devices"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=fault):
            read_hostfile(path)
