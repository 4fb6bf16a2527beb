"""The clone of a run: bring it to a ref, and check its settings before anything trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import RebuildError
from tasks.processes import DVC, environment

_PIPELINE_FILES = ("dvc.lock", "results")
"""Paths that a rebuild itself changes; a scheduled run starts from their state in the ref."""


def enter() -> dict[str, str]:
    """A pull step of `prefect.yaml`: run in $REBUILD_CLONE, or in the folder where the worker was started."""
    folder = os.environ.get("REBUILD_CLONE") or os.environ.get("PWD")
    if folder is None or not (Path(folder) / "dvc.yaml").exists():
        raise RebuildError(
            f"The worker was started in {folder or 'no folder'}, which is no clone of the pipeline.\n"
            "Start it in a clone, or name one in REBUILD_CLONE."
        )
    return {"directory": folder}


def git(root: Path, *arguments: str, extra: dict[str, str] | None = None) -> str:
    """Run git in `root`; its output without the last newline. Raises: RebuildError with git's own words."""
    if arguments[0] == "commit-tree" and not _has_identity(root):
        # A worker's machine often has no name for commits; a person's commits keep the person's name.
        arguments = ("-c", "user.name=rebuild", "-c", "user.email=rebuild@localhost", *arguments)
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=environment(extra), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise RebuildError(
            f"`git {' '.join(arguments)}` failed in {root}: {said}\nCorrect that, then run the same command."
        )
    return done.stdout.removesuffix("\n")


def dvc(root: Path, *arguments: str) -> str:
    """Run DVC in `root`; its output without the last newline. Raises: RebuildError with DVC's own words."""
    done = subprocess.run([*DVC, *arguments], cwd=root, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RebuildError(
            f"`dvc {' '.join(arguments)}` failed in {root}: {done.stderr.strip()}\n"
            "Correct that, then run the same command."
        )
    return done.stdout.removesuffix("\n")


def make_clone(root: Path, clone: Path) -> None:
    """Clone `root` into `clone`, which shares DVC's cache, unless it is there."""
    if not clone.exists():
        git(root, "clone", "--quiet", str(root), str(clone))
    shared = (root / dvc(root, "cache", "dir")).resolve()
    (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {shared}\n")


def has_commit(root: Path) -> bool:
    """Whether `root` is in a git repository with at least one commit."""
    asked = ["git", "rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 0


def _has_identity(root: Path) -> bool:
    asked = ["git", "config", "user.email"]
    return subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 0


def check_out(root: Path, ref: str, say: Callable[[str], None]) -> str:
    """Fetch and check out `ref` (a branch of origin, a tag or a commit); the commit's id.

    Changes of an earlier rebuild in dvc.lock and results/ are dropped: DVC's run cache brings them back.

    Raises: RebuildError when the clone holds anybody's uncommitted work, or `ref` does not exist.
    """
    changed = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    ours = [line[3:] for line in changed if line[3:].partition("/")[0] in _PIPELINE_FILES]
    theirs = [line[3:] for line in changed if line[3:] not in ours]
    if theirs:
        raise RebuildError(
            f"{root} holds uncommitted changes: {', '.join(theirs)}.\n"
            "A run with a ref needs a clone of its own: commit or stash them, or run without a ref."
        )
    if ours:
        git(root, "checkout", "--quiet", "HEAD", "--", *ours)
    if "origin" in git(root, "remote").split():
        git(root, "fetch", "--quiet", "--tags", "--prune", "origin")
    commit = _resolve(root, ref)
    git(root, "checkout", "--quiet", "--detach", commit)
    say(f"checked out {ref}: {git(root, 'log', '-1', '--format=%h %s')}")
    return commit


def _resolve(root: Path, ref: str) -> str:
    for name in (f"refs/remotes/origin/{ref}", ref):
        found = subprocess.run(
            ["git", "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            return found.stdout.strip()
    raise RebuildError(f"{root} knows no ref {ref!r}.\nPush it to origin, or name a branch, tag or commit that exists.")


def check_settings(root: Path, command: Sequence[str] = (sys.executable, "-m", "commands.check")) -> None:
    """Validate every setting of the clone in a process of its own.

    Raises: RebuildError with all faults.
    """
    if not (root / "commands/check.py").exists():  # a pipeline without settings of ours
        return
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RebuildError(done.stderr.strip() or f"{' '.join(command)} failed with exit code {done.returncode}.")
