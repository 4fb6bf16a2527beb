"""What `make repro` needs around it, checked before: a repository, folders to write in, a path without braces."""

from __future__ import annotations

import configparser
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from distill.preflight.findings import Finding

# What DVC and hydra take for a template in a path.
_TEMPLATE = re.compile(r"[{}]")


def surroundings_findings(root: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Everything that is amiss around the clone at `root`; one `ok` where nothing is."""
    settings = dvc_settings(root, environment)
    found = [
        *_repository(root, settings),
        *_path(root),
        *_writable(root.resolve(), "clone", "work in a clone on a disk that can be written"),
        *_cache(root, settings),
        *_temporary(),
        *_user(environment),
    ]
    return found or [Finding("ok", "surroundings", "a repository, and folders that can be written")]


def dvc_settings(root: Path, environment: Mapping[str, str]) -> configparser.ConfigParser:
    """DVC's settings of this clone, over those of the user and of the machine."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    home = Path(environment.get("HOME") or "/")
    users = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "dvc/config"
    for path in (Path("/etc/xdg/dvc/config"), users, root / ".dvc/config", root / ".dvc/config.local"):
        try:
            config.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # DVC says what is wrong with it
    return config


def _repository(root: Path, settings: configparser.ConfigParser) -> list[Finding]:
    whole = root.resolve()
    if any((folder / ".git").exists() for folder in (whole, *whole.parents)):
        return []
    if settings.get("core", "no_scm", fallback="").lower() in ("true", "1", "yes", "on"):
        return []
    fix = "run `git init`, or `dvc config --local core.no_scm true` to do without git"
    return [Finding("stop", "git", f"this folder is no git repository, which DVC asks for; {fix}")]


def _path(root: Path) -> list[Finding]:
    if not _TEMPLATE.search(str(root.resolve())):
        return []
    text = f"DVC takes braces in a path for a template: {root.resolve()}; move the clone to a folder without them"
    return [Finding("stop", "clone", text)]


def _cache(root: Path, settings: configparser.ConfigParser) -> list[Finding]:
    named = settings.get("cache", "dir", fallback="")
    if not named:
        return []
    # DVC takes a relative path from .dvc/.
    folder = (root / ".dvc" / os.path.expanduser(named)).resolve()  # noqa: PTH111  (no HOME is no fault)
    return _writable(folder, "DVC's cache", "mount it, or name another: `dvc cache dir --local <folder>`")


def _writable(folder: Path, name: str, fix: str) -> list[Finding]:
    """Whether a file can be made in `folder`, or in the nearest folder above it that is there."""
    place = folder
    # `Path.exists` raises where a folder above may not be searched.
    while not os.path.exists(place) and place != place.parent:  # noqa: PTH110
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return []
    except OSError as error:
        return [Finding("stop", name, f"{folder} cannot be written ({error.strerror}); {fix}")]


def _temporary() -> list[Finding]:
    try:
        tempfile.gettempdir()
    except OSError:
        return [Finding("stop", "temporary files", "no folder for them can be written; set TMPDIR to one that can")]
    return []


def _user(environment: Mapping[str, str]) -> list[Finding]:
    """Names that the commands of this project had to make up (distill.project.surroundings)."""
    made_up = []
    if environment.get("USER") == f"uid{os.getuid()}":
        made_up.append(f"USER={environment['USER']}")
    if environment.get("HOME", "").endswith(".resume/home"):
        made_up.append("HOME=$PWD/.resume/home")
    if not made_up:
        return []
    text = f"this user has no name or home; commands here go by {' '.join(made_up)}"
    return [Finding("ok", "user", f"{text}: before `dvc` by hand, export the same")]
