"""What `make repro` needs around it: a repository, a user, folders to write in, an output that shows letters."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from distill.preflight import surroundings
from distill.preflight.machine import read_machine
from distill.preflight.surroundings import surroundings_findings
from distill.project.errors import forbidden_message, is_forbidden
from tasks import graph
from tasks.errors import RebuildError
from tasks.own_results import prefer_own_results
from tests.import_closure import ROOT


def levels(root: Path) -> dict[str, str]:
    return {found.subject: f"{found.level} {found.text}" for found in surroundings_findings(root, {"HOME": str(root)})}


def test_a_folder_that_is_no_repository_is_told_both_ways_out(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    assert "`git init`, or `dvc config --local core.no_scm true`" in levels(tmp_path)["git"]
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert levels(tmp_path) == {"surroundings": "ok a repository, and folders that can be written"}
    (tmp_path / ".dvc/config.local").unlink()
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")  # a worktree's is a file
    assert "git" not in levels(tmp_path)


def test_braces_in_the_path_stop(tmp_path: Path) -> None:
    root = tmp_path / "{draft}"
    (root / ".git").mkdir(parents=True)
    assert levels(root)["clone"].startswith("stop DVC takes braces in a path for a template")


def test_folders_that_cannot_be_written_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".dvc").mkdir()
    # /proc takes no file from anyone, root included.
    (tmp_path / ".dvc/config").write_text("[cache]\n    dir = /proc/nowhere\n")
    assert levels(tmp_path)["DVC's cache"].startswith("stop /proc/nowhere cannot be written")
    (tmp_path / ".dvc/config").write_text("[cache]\n    dir = ../not/there/yet\n")
    assert set(levels(tmp_path)) == {"surroundings"}

    def forbid(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    (tmp_path / ".dvc/config").write_text("[cache]\n    dir = ~nobody_of_this_name/cache\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", forbid)  # as below a folder that this user may not search
        assert surroundings._cache(tmp_path, surroundings.dvc_settings(tmp_path, {})) == []

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert "(Read-only file system); work in a clone on a disk that can be written" in levels(tmp_path)["clone"]


def test_a_fault_below_dvc_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    way_out = r"`dvc config --local core\.no_scm true` to do without git"
    with pytest.raises(RebuildError, match=way_out):
        graph._stages(tmp_path, [])
    with pytest.raises(RebuildError, match=way_out):
        prefer_own_results(tmp_path)  # what commands do first
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(RebuildError, match=r"^There is no stage 'minilm'"):
        graph._stages(tmp_path, ["minilm"])


def test_a_file_that_may_not_be_used_is_a_sentence() -> None:
    error = PermissionError(13, "Permission denied", "dvc.lock")
    assert is_forbidden(error) and not is_forbidden(FileNotFoundError(2, "No such file", "x"))
    assert forbidden_message(error).startswith("dvc.lock: Permission denied; give this user the right")


def test_a_driver_that_may_not_be_run_is_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "nvidia-smi"
    blocked.write_text("no program")
    blocked.chmod(blocked.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_machine(tmp_path).gpus == ()


@pytest.mark.parametrize("package", ["commands", "tasks"])
def test_a_user_without_name_or_home_gets_both_and_latin_output_shows_all(package: str, tmp_path: Path) -> None:
    """As in a container with a random user id; the program is run as `python -m` is, so that the package settles it."""
    probe = (
        "import os, pwd, sys, getpass\n"
        "def nobody(uid): raise KeyError('getpwuid(): uid not found')\n"
        "pwd.getpwuid = nobody\n"
        "sys.argv[0] = '-m'\n"
        f"import {package}\n"
        "from pathlib import Path\n"
        "print(getpass.getuser() == f'uid{os.getuid()}', Path.home() == Path('.resume/home').resolve(), '± ▲')\n"
    )
    kept = {name: os.environ[name] for name in ("PATH",)}
    variables = kept | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, env=variables, capture_output=True, check=False)
    assert done.stdout == "True True ± ?\n".encode("latin-1"), done.stderr


def test_make_installs_nothing_through_a_link(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    other = tmp_path / "other/bin"
    other.mkdir(parents=True)
    for name in ("python", "pip"):
        (other / name).write_text('#!/bin/sh\necho "$0 $*" >> "$(dirname "$0")/calls"\n')
        (other / name).chmod(0o755)
    (tmp_path / ".venv").symlink_to(tmp_path / "other")
    done = subprocess.run(["make", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f".venv is a link to {tmp_path / 'other'}: nothing is installed there" in done.stderr
    assert not (other / "calls").exists()
