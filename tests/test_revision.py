"""The code revision that every record of a run carries."""

from __future__ import annotations

import subprocess
from pathlib import Path

from distill.project.revision import code_revision


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@b.example")
    done = subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_a_run_writes_does_not_make_its_code_dirty(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert code_revision(tmp_path) is None
    (tmp_path / "results").mkdir()
    for name in ("code.py", "dvc.lock", "results/tiny.json"):
        (tmp_path / name).write_text("before")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "First")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    for name in ("dvc.lock", "results/tiny.json", "untracked.py"):
        (tmp_path / name).write_text("after")
    assert code_revision(tmp_path) == commit
    (tmp_path / "code.py").write_text("after")
    assert code_revision(tmp_path) == f"{commit}-dirty"


def test_no_repository_has_no_revision(tmp_path: Path) -> None:
    assert code_revision(tmp_path) is None
