"""The clone of a run: bring it to a ref, and check its settings before anything trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import RebuildError
from tasks.graph import cache_of
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
    committer = _committer(root) if arguments[0] == "commit-tree" else {}
    return _run(root, ("git",), arguments, {**committer, **(extra or {})})


def dvc(root: Path, *arguments: str) -> str:
    """Run DVC in `root`; its output without the last newline. Raises: RebuildError with DVC's own words.

    Never with --quiet, which leaves a failure without a reason.
    """
    return _run(root, DVC, arguments, _committer(root) if arguments[0] == "exp" else {})


def _run(root: Path, program: Sequence[str], arguments: Sequence[str], extra: dict[str, str]) -> str:
    command = [*program, *arguments]
    done = subprocess.run(command, cwd=root, env=environment(extra), capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(filter(None, (done.stderr.strip(), done.stdout.strip())))
        name = " ".join(["dvc" if program is DVC else "git", *arguments])
        raise RebuildError(
            f"`{name}` failed in {root}: {said or f'no reason given, exit code {done.returncode}'}\n"
            "Correct that, then run the same command."
        )
    return done.stdout.removesuffix("\n")


def make_clone(root: Path, clone: Path) -> None:
    """Clone `root` into `clone`, which shares DVC's cache, unless it is there.

    Raises: RebuildError when something else is there.
    """
    if not clone.exists():
        git(root, "clone", "--quiet", str(root), str(clone))
    elif not _is_clone_of(root, clone):
        raise RebuildError(f"{clone} is no clone of {root}.\nRemove it, or name another folder.")
    # In quotes, because a bare # begins a comment and a comma a list.
    shared = str(cache_of(root))
    quote = "'" if '"' in shared else '"'
    (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {quote}{shared}{quote}\n", encoding="utf-8")


def _is_clone_of(root: Path, clone: Path) -> bool:
    """Whether `clone` is the top of a repository of its own whose origin is `root`."""
    if not (clone / ".git").exists() or not clone.is_dir():
        return False  # git would answer for a repository around it
    asked = ["git", "config", "remote.origin.url"]
    origin = subprocess.run(asked, cwd=clone, capture_output=True, text=True, check=False).stdout.strip()
    return bool(origin) and Path(origin).resolve() == root.resolve() and (clone / ".dvc").is_dir()


def has_commit(root: Path) -> bool:
    """Whether `root` is in a git repository with at least one commit."""
    asked = ["git", "rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 0


def _committer(root: Path) -> dict[str, str]:
    """A name for commits on a machine that has none, as a worker's often has; a person's commits keep the person's."""
    asked = ["git", "config", "user.email"]
    if subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 0:
        return {}
    who = {"NAME": "rebuild", "EMAIL": "rebuild@localhost"}
    named = {f"GIT_{role}_{part}": text for role in ("AUTHOR", "COMMITTER") for part, text in who.items()}
    return {name: os.environ.get(name, text) for name, text in named.items()}


def changed_files(root: Path, how: str = "ACDMRTUX") -> tuple[list[str], list[str]]:
    """Tracked files that differ from the commit: those that a rebuild itself changes, and all others.

    `how` is git's --diff-filter: M for files that the commit has and whose content differs.
    """
    asked = ("diff", "--name-only", "--no-renames", f"--diff-filter={how}", "-z", "HEAD", "--")
    changed = [name for name in git(root, *asked).split("\0") if name]
    ours = [name for name in changed if name.partition("/")[0] in _PIPELINE_FILES]
    return ours, [name for name in changed if name not in ours]


def check_out(root: Path, ref: str, say: Callable[[str], None]) -> str:
    """Fetch and check out `ref` (a branch of origin, a tag or a commit); the commit's id.

    Changes of an earlier rebuild in dvc.lock and results/ are dropped: DVC's run cache brings them back.

    Raises: RebuildError when the clone holds anybody's uncommitted work, or `ref` does not exist.
    """
    ours, theirs = changed_files(root)
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
