"""A stage that starts itself again: this file is a test, and the stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.parallel.faults import batch_faults, machine_faults, micro_batch_faults
from distill.parallel.hosts import Host, read_hostfile
from distill.parallel.launch import HALVINGS, end_worker, relaunch_if_asked
from distill.project.errors import DataError, SettingsError, run_stage
from distill.runs.hardware import HardwareSettings
from tests.import_closure import ROOT

HOSTS = "# two names of this machine\nlocalhost slots=1\n127.0.0.1 slots=2\n"
# Runs what it is asked to run on another machine on this one.
SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'


def main() -> None:
    """Say who this process is; then end as the argument wants."""
    wanted = sys.argv[1]
    hosts = Path("hosts.txt")
    relaunch_if_asked(
        HardwareSettings(processes=1 if hosts.exists() else 2, hostfile="hosts.txt" if hosts.exists() else None)
    )
    rank, halvings = os.environ["RANK"], os.environ.get(HALVINGS, "0")
    Path(f"{wanted}-{halvings}-{rank}-of-{os.environ['WORLD_SIZE']}").touch()
    if wanted == "refused" and rank == "1":
        raise DataError("there is a fault; mend it")
    if wanted == "memory" and halvings != "2" and rank == "1":
        raise SystemExit(75)
    if wanted == "endless" or (wanted in ("refused", "memory") and rank == "0" and halvings != "2"):
        time.sleep(120)  # as one that waits for the other
    end_worker()


def started(*arguments: str) -> subprocess.Popen[str]:
    path = f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.test_parallel_launch", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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


@pytest.mark.slow
def test_a_stop_reaches_the_processes() -> None:
    process = started("endless")
    while len(seen()) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.slow
def test_a_hostfile_starts_the_stage_on_every_host() -> None:
    Path("hosts.txt").write_text(HOSTS)
    Path("ssh").write_text(SSH)
    Path("ssh").chmod(0o755)
    process = started("sound")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert seen() == [f"sound-0-{rank}-of-3" for rank in range(3)]


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
