"""Entries of dvc.lock whose outputs only another machine has, replaced by this machine's own from DVC's run cache.

DVC asks its run cache only where dvc.lock has no entry for the same inputs. A commit of another machine has one, and
its outputs are never quite the same: a run's record holds the seconds it took.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from tasks.graph import cache_of

Entry = dict[str, Any]
"""A stage in dvc.lock, or a file of the run cache: `cmd`, `deps`, `params`, `outs`."""


def prefer_own_results(root: Path) -> list[str]:
    """Let dvc.lock of the clone at `root` name what this machine's cache holds; a sentence if it did.

    Only entries with outputs that the cache lacks are replaced, each by the newest run of the same command, settings
    and inputs whose outputs are all there. Hold the clone's lock.
    """
    from dvc.utils.serialize import dump_yaml

    path = root / "dvc.lock"
    if not path.exists():
        return []
    cache, replaced = cache_of(root), []
    (root / ".dvc/tmp").mkdir(exist_ok=True)
    with (root / ".dvc/tmp/lock").open("a") as guard:  # the lock under which DVC writes the file
        fcntl.flock(guard, fcntl.LOCK_EX)
        content = _read(path)
        stages: dict[str, Entry] = content.get("stages") or {}
        for name, entry in stages.items():
            if not _is_cached(entry, cache) and (own := next(_own_runs(entry, cache), None)):
                stages[name] = own
                replaced.append(name)
        if replaced:
            aside = path.with_suffix(".part")
            dump_yaml(str(aside), content)
            os.replace(aside, path)
    if not replaced:
        return []
    return [f"dvc.lock names another machine's outputs of {len(replaced)} stages: took those that were built here."]


def _own_runs(entry: Entry, cache: Path) -> Iterator[Entry]:
    """The runs of this entry's command, settings and inputs whose outputs the cache holds, newest first."""
    from dvc.stage.cache import _get_cache_hash

    key = _get_cache_hash(deepcopy(entry), key=True)
    folder = cache / "runs" / key[:2] / key
    if folder.is_dir():
        for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True):
            if (run := _read(file)) and _is_cached(run, cache):
                yield run


def _read(path: Path) -> dict[str, Any]:
    """A YAML file of DVC's; empty where DVC cannot read it, which it says itself when it comes to it."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import load_yaml

    try:
        content = load_yaml(str(path))
    except DvcException:
        return {}
    return content if isinstance(content, dict) else {}


def _is_cached(entry: Entry, cache: Path) -> bool:
    """Whether the cache holds every output of an entry, each file of its folders too."""
    return all(_holds(out.get("md5"), cache, out.get("hash") is None) for out in entry.get("outs", []))


def _holds(md5: str | None, cache: Path, is_old: bool) -> bool:
    """Whether the cache holds an object; `is_old` for those that DVC 2 named, which lie elsewhere."""
    if md5 is None:
        return True  # an output outside the project, of which the cache knows nothing
    path = (cache if is_old else cache / "files/md5") / md5[:2] / md5[2:]
    if not path.is_file():
        return False
    if not md5.endswith(".dir"):
        return True
    try:
        return all(_holds(part["md5"], cache, is_old) for part in json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError):  # damaged: DVC, too, finds nothing in it
        return False
