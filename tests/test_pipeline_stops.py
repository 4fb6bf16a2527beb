"""Commands that are stopped or run out of room: what they say, how they exit, and what they leave behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from distill.project import errors
from distill.project.errors import DataError, Terminated, run_stage
from distill.project.files import fresh_dir, replace_file, write_json, write_jsonl, write_text
from tests.tiny_pipeline import ROOT, environment


def ending(main: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str]:
    """Exit code and message of a command."""
    with pytest.raises(SystemExit) as ended:
        run_stage(main)
    said = capsys.readouterr()
    assert said.out == ""
    return ended.value.code, said.err


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("no rows; add some"), 2, "error: no rows; add some\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing half-written was kept; run the same command to continue\n"),
        (Terminated(), 143, "terminated: nothing half-written was kept; run the same command to continue\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "error: the disk is full ("),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "error: the disk is full ("),
        # As safetensors and Arrow say it.
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 1, "disk is full"),
    ],
)
def test_what_a_person_can_mend_is_a_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, message = ending(raising(error), capsys)
    assert found == code
    assert said in message
    if code == 1:
        assert message.endswith("free some space and run the same command to continue\n")


def test_a_library_that_only_fails_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch.save says nothing of the disk."""
    failing = raising(RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"))
    with pytest.raises(RuntimeError):
        run_stage(failing)
    usage = errors.shutil._ntuple_diskusage(100, 100, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(errors.shutil, "disk_usage", lambda path: usage)  # type: ignore[attr-defined]
    assert ending(failing, capsys)[0] == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(raising(ZeroDivisionError()))


def test_sigterm_ends_a_command_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    code, said = ending(lambda: os.kill(os.getpid(), signal.SIGTERM), capsys)
    assert (code, said.split(":")[0]) == (143, "terminated")
    assert signal.getsignal(signal.SIGTERM) is before


INTERRUPT_AT_IMPORT = """
import os, signal, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
            raise SystemExit("the signal never came")  # rather than the stage itself, in a person's own clone

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "command",
    [
        "base tiny",
        "calibration tiny sft",
        "divergence tiny sft",
        "on_rows tiny kd kd.py base",
        "on_own_samples tiny minillm minillm",
        "pseudo toy",
        "respond tiny sft toy_id",
        "teacher_samples toy",
    ],
)
def test_ctrl_c_while_torch_is_imported(tmp_path: Path, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_AT_IMPORT)
    stage, *arguments = command.split()
    ran = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *arguments],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 130
    assert ran.stderr == "interrupted: nothing half-written was kept; run the same command to continue\n"


# --- writing ------------------------------------------------------------------------------------------


def write_folder(path: Path) -> None:
    with fresh_dir(path) as aside:
        (aside / "model.safetensors").write_text("weights")


def write_through_library(path: Path) -> None:
    with replace_file(path) as aside:
        aside.write_text("table")


WRITERS = {
    "text": lambda path: write_text(path, "text"),
    "json": lambda path: write_json(path, {"a": 1}),
    "jsonl": lambda path: write_jsonl(path, [{"a": 1}]),
    "folder": write_folder,
    "library": write_through_library,
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[[Path], None], call: str
) -> None:
    target = tmp_path / "target"
    writer(target)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space"):
            writer(target)
    left = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    # A folder cannot be exchanged in one step: the old one goes before the new one comes, but never a half.
    assert left in (before, [])
    writer(target)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_what_a_kill_left_is_cleared_by_the_next_writer(tmp_path: Path, writer: Callable[[Path], None]) -> None:
    target = tmp_path / "target"
    for left in (tmp_path / ".target.1234.part", tmp_path / ".target.1235.part/deep"):
        left.mkdir(parents=True)
        (left / "file").write_text("half")
    (tmp_path / ".target.1236.part").write_text("half")
    (tmp_path / ".other.1.part").write_text("another writer's")
    writer(target)
    assert {path.name for path in tmp_path.iterdir()} == {"target", ".other.1.part"}


def test_json_has_no_nan(tmp_path: Path) -> None:
    with suppress(ValueError):
        write_json(tmp_path / "file.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "file.json", {"a": 0.1})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": 0.1}
