"""Stored states of unfinished runs, from which a killed run goes on.

They lie in `.resume/<stage>/<fingerprint>/`, outside DVC's outputs, because DVC deletes those before it runs a
stage. The fingerprint covers settings, inputs and code, so a changed one never resumes from the wrong state.
Only safetensors and JSON are written, which run no code when read; each state is made aside, synced, renamed,
and carries checksums: a damaged newest state is passed over for the one before. The checksums say that a file is whole,
not who wrote it, so a state that another user could have written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.project.errors import DataError
from distill.project.files import fresh_dir, read_json, sha256_file, sync, write_json

RESUME_FOLDER = Path(".resume")
_KEPT = 2
_SEAL = "sha256.json"


@dataclass(frozen=True)
class State:
    """One stored state: the step it was taken after, JSON information, and named groups of tensors."""

    step: int
    info: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def fingerprint(parts: Mapping[str, str]) -> str:
    """A short hash of settings, inputs and code, by name: a run goes on only from states with its own hash."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ResumeStore:
    """The stored states of one run."""

    def __init__(self, stage: str, fingerprint: str) -> None:
        """`stage` is the path-like name of the run, e.g. `tiny/minillm`."""
        self.folder = RESUME_FOLDER / stage / fingerprint

    def save(self, state: State) -> None:
        """Store a state; the newest few are kept."""
        target = self.folder / f"step-{state.step:08d}"
        with fresh_dir(target) as aside:
            aside.chmod(0o700)
            for name, tensors in state.tensors.items():
                save_file({k: v.contiguous() for k, v in tensors.items()}, aside / f"{name}.safetensors")
            write_json(aside / "state.json", {"step": state.step, "info": state.info})
            seal(aside)
        for old in self._states()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> State | None:
        """The newest intact state, or None.

        Raises: DataError when another user could have written one.
        """
        for folder in reversed(self._states()):
            require_own(folder)
            if is_intact(folder):
                content = read_json(folder / "state.json")
                tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
                return State(content["step"], content["info"], tensors)
            print(f"{folder} is damaged; going back to the state before it", file=sys.stderr)
        return None

    def clear(self) -> None:
        """Remove all states, once the run's output is safely written."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


def seal(folder: Path) -> None:
    """Write the checksums of a finished folder's files into it: `is_intact` compares them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL)
    for path in files:
        sync(path)
    write_json(folder / _SEAL, {path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def is_intact(folder: Path) -> bool:
    """Whether a folder was sealed, and no file in it has changed since."""
    try:
        sums = read_json(folder / _SEAL)
    except (DataError, UnicodeDecodeError):
        return False
    return isinstance(sums, dict) and all(
        (folder / name).is_file() and sha256_file(folder / name) == digest for name, digest in sums.items()
    )


def require_own(folder: Path) -> None:
    """Refuse a stored state that another user owns or may write: its weights would pass for our own.

    Raises: DataError naming it.
    """
    for path in (folder, *folder.rglob("*")):
        found = path.lstat()
        whose = f"of user {found.st_uid}" if found.st_uid != os.geteuid() else None
        if whose is None and path.is_symlink():
            whose = "a link to elsewhere"
        reached = path == folder or folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
        if whose is None and reached and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            whose = "what others may write"
        if whose is not None:
            raise DataError(
                f"{path} is {whose}: a run goes on only from a state that nobody else could have written; "
                f"remove {folder.parent} to begin anew, or, if you trust it, `chown -R` and `chmod -R go-w` it"
            )
