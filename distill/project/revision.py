"""The commit that is checked out, as the record of a run names it."""

from __future__ import annotations

import subprocess
from pathlib import Path

# A run writes these itself, so a change in them says nothing about the code that ran.
_WRITTEN_BY_RUNS = (":(exclude)dvc.lock", ":(exclude)results")


def code_revision(root: Path = Path()) -> str | None:
    """First 12 digits of the commit, with `-dirty` where a tracked file differs from it; None without git."""
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None  # a source archive, or a repository without a commit
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN_BY_RUNS)
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # no git, or none that may be run
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
