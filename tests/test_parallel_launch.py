"""A stage in several processes of this machine: exit codes, faults, signals, locks and ports."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from distill.parallel.faults import batch_faults, machine_faults, micro_batch_faults
from distill.parallel.launch import relaunch_if_asked
from distill.runs.hardware import HardwareSettings
from tests.launched_stage import ended, running, seen, started, wait_for


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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


def test_one_process_starts_nothing() -> None:
    relaunch_if_asked(HardwareSettings())


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
    Path("hosts.txt").write_text("localhost slots=1\n")
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
