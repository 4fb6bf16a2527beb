"""The clone a run works in: bring it to a ref, and check its settings before anything trains."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import RebuildError
from tasks.processes import environment

_PIPELINE_FILES = ("dvc.lock", "results")
"""What a rebuild itself changes in a clone; a scheduled run starts from what the ref says of them."""


def git(root: Path, *arguments: str, extra: dict[str, str] | None = None) -> str:
    """Run git in `root`; its output without the last newline. Raises: RebuildError with git's own words."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=environment(extra), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise RebuildError(
            f"`git {' '.join(arguments)}` failed in {root}: {said}\nMend that, then run the same command."
        )
    return done.stdout.removesuffix("\n")


def has_commit(root: Path) -> bool:
    """Whether `root` is in a git repository with at least one commit."""
    asked = ["git", "rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 0


def check_out(root: Path, ref: str, say: Callable[[str], None]) -> str:
    """Fetch and check out `ref` (a branch of origin, a tag or a commit); the commit's id.

    What an earlier rebuild wrote into dvc.lock and results/ is dropped, since DVC's run cache brings it back.

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


def check_settings(root: Path, command: Sequence[str] = (sys.executable, "-m", "stages.check")) -> None:
    """Validate every setting of the clone in a process of its own.

    Raises: RebuildError with all that is wrong.
    """
    if not (root / "stages/check.py").exists():  # a pipeline without settings of ours
        return
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RebuildError(done.stderr.strip() or f"{' '.join(command)} failed with exit code {done.returncode}.")
