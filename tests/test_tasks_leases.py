"""Devices are held by one flow at a time, and by the stage's own processes until the last of them is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.leases import Slots, visible_devices
from tasks.processes import Command
from tests.small_repository import until


def test_two_flows_never_share_a_device(tmp_path: Path) -> None:
    one, two = Slots(("0", "1", "2"), 1, tmp_path), Slots(("0", "1", "2"), 1, tmp_path)
    first = one.lease(2)
    assert first is not None
    assert first.devices == ("0", "1")
    assert two.lease(2) is None, "only one is free, and half a lease helps nobody"
    third = two.lease(1)
    assert third is not None
    assert third.devices == ("2",)
    one.release(first)
    again = two.lease(2)
    assert again is not None
    assert again.devices == ("0", "1")


def test_a_smaller_box_gives_what_it_has(tmp_path: Path) -> None:
    lease = Slots(("0",), 1, tmp_path).lease(4)
    assert lease is not None
    assert lease.devices == ("0",)


def test_a_cpu_box_has_its_slots(tmp_path: Path) -> None:
    box = Slots((), 2, tmp_path)
    leases = [box.lease(1), box.lease(0)]
    assert all(lease is not None and lease.devices == () for lease in leases)
    assert box.lease(1) is None
    assert leases[0] is not None
    box.release(leases[0])
    assert box.lease(1) is not None


def test_a_device_is_free_when_its_last_process_is(tmp_path: Path) -> None:
    box, other = Slots(("0",), 1, tmp_path), Slots(("0",), 1, tmp_path)
    lease = box.lease(1)
    assert lease is not None
    command = Command(["sleep", "60"], tmp_path, {}, lease.descriptors)
    box.release(lease)  # as if the flow had died
    assert other.lease(1) is None
    command.stop()
    until(lambda: other.lease(1) is not None, seconds=10)


def test_the_kernel_frees_a_killed_flow(tmp_path: Path) -> None:
    code = f"from tasks.leases import Slots; from pathlib import Path; import time; \
Slots(('0',), 1, Path({str(tmp_path)!r})).lease(1); print('held', flush=True); time.sleep(60)"
    flow = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert flow.stdout is not None
    assert flow.stdout.readline() == "held\n"
    box = Slots(("0",), 1, tmp_path)
    assert box.lease(1) is None
    flow.kill()
    flow.wait()
    assert box.lease(1) is not None


def test_which_devices_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices() == (), "no nvidia-smi: a CPU box"
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-aaa'\necho '1, GPU-bbb'\n")
    smi.chmod(0o755)
    assert visible_devices() == ("GPU-aaa", "GPU-bbb")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_devices() == ("GPU-bbb",)
    assert visible_devices(["0", "GPU-aaa"]) == ("GPU-aaa",), "one device under two names"
    assert visible_devices([]) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == ()
