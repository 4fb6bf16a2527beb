"""Remains of a killed DVC in a clone: entries in its lock table, and a cut-off dvc.lock."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil


def clear_leftovers(root: Path) -> list[str]:
    """Clear the remains of killed processes in the clone at `root`; a sentence for each. Hold the clone's lock."""
    return [*clear_dead_entries(root), *mend_lock_file(root)]


def clear_dead_entries(root: Path) -> list[str]:
    """Drop the entries of dead processes from DVC's `.dvc/tmp/rwlock`, and nothing else; a sentence for each.

    A file cut off in the middle of a write is removed.
    """
    path = root / ".dvc/tmp/rwlock"
    if not path.exists():
        return []
    with (root / ".dvc/tmp/rwlock.lock").open("a") as guard:  # the lock under which DVC edits the file
        fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            table: dict[str, dict[str, Any]] = json.loads(path.read_text())
        except json.JSONDecodeError:
            path.unlink()
            return ["Removed .dvc/tmp/rwlock, which a killed process had left cut off."]
        dead: set[tuple[int, str]] = set()
        for mode, entries in table.items():
            for held, infos in list(entries.items()):
                listed = infos if isinstance(infos, list) else [infos]
                alive = [info for info in listed if _is_dvc(info["pid"])]
                dead |= {(info["pid"], info["cmd"]) for info in listed if info not in alive}
                if not alive:
                    del entries[held]
                elif mode == "read":
                    entries[held] = alive
        if dead:
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(table))
            os.replace(aside, path)
        return [f"Released the DVC locks of process {pid} ({command}), which is dead." for pid, command in sorted(dead)]


def _is_dvc(pid: int) -> bool:
    """Whether `pid` is a living DVC process, not an unreaped zombie nor a stranger that got the number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "dvc" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's process: leave it to them
        return True


def mend_lock_file(root: Path) -> list[str]:
    """Replace a dvc.lock that DVC cannot read by the commit's; a sentence if it did.

    DVC writes the file in place, so a kill or a Ctrl-C at that moment leaves a part of it. Results since the commit are
    not lost: DVC's run cache, which is written first, restores them.
    """
    path = root / "dvc.lock"
    if not path.exists():
        return []
    (root / ".dvc/tmp").mkdir(exist_ok=True)
    with (root / ".dvc/tmp/lock").open("a") as guard:  # the lock under which DVC writes the file
        fcntl.flock(guard, fcntl.LOCK_EX)
        if _is_whole(path):
            return []
        aside = path.with_suffix(".part")
        committed = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=root, capture_output=True, check=False)
        aside.write_bytes(committed.stdout)
        if committed.returncode == 0 and _is_whole(aside):
            os.replace(aside, path)
            now = "it is the commit's again"
        else:
            aside.unlink()
            path.unlink()
            now = "removed it"
    return [f"dvc.lock was cut off by a kill: {now}, and what was built since comes back from DVC's run cache."]


def _is_whole(path: Path) -> bool:
    """Whether DVC can read `path` as a lock file, by its own reading; an empty one says nothing."""
    from dvc.exceptions import DvcException, PrettyDvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.strictyaml import load

    try:
        content, _ = load(str(path), COMPILED_LOCKFILE_SCHEMA)
    except (DvcException, PrettyDvcException):
        return False
    return bool(content)
