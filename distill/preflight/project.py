"""The project's surroundings, checked before the work: DVC's remote, locks, the Prefect server."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from distill.preflight.findings import Finding
from distill.preflight.surroundings import dvc_settings
from distill.project.errors import SettingsError
from distill.project.network import connection

_SECONDS = 3.0


def remote_finding(root: Path, environment: Mapping[str, str]) -> Finding:
    """The target of `dvc push`; a folder is checked, a server is not asked."""
    config = dvc_settings(root, environment)
    name = config.get("core", "remote", fallback="")
    if not name:
        return Finding("ok", "DVC remote", "none; what is built stays in this clone's cache")
    # DVC writes the section as ['remote "store"'].
    sections = (section for section in config.sections() if section.strip("'") == f'remote "{name}"')
    url = next((config.get(section, "url", fallback="") for section in sections), "")
    if not url:
        return Finding("warn", "DVC remote", f"`{name}` has no url; set it: dvc remote add --local {name} <url>")
    if "://" in url:
        return Finding("ok", "DVC remote", f"{name} at {url}, not asked")
    # DVC takes a relative path from .dvc/.
    folder = (root / ".dvc" / url).resolve()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        text = f"{name} at {url} is no folder that can be written; mount it, or correct it: dvc remote modify {name}"
        return Finding("warn", "DVC remote", text)
    return Finding("ok", "DVC remote", f"{name} at {url}")


def lock_findings(root: Path) -> list[Finding]:
    """Other builds in this clone, and the remains of dead processes (which the next rebuild clears)."""
    found = []
    path = root / ".dvc/tmp/rebuild.lock"
    if path.is_file() and _is_held(path):
        holder = _read(path)
        who = f"process {holder['pid']} since {holder['started']}" if "pid" in holder else "another run"
        found.append(Finding("warn", "locks", f"{who} is building in this clone; wait for it, or stop it first"))
    entries = _read(root / ".dvc/tmp/rwlock")
    pids = {
        int(info["pid"])
        for held in entries.values()
        for infos in held.values()
        for info in (infos if isinstance(infos, list) else [infos])
    }
    dead = sorted(pid for pid in pids if not psutil.pid_exists(pid))
    if dead:
        found.append(Finding("ok", "locks", f"left by dead processes ({dead}); the next rebuild releases them"))
    return found or [Finding("ok", "locks", "free")]


def _is_held(path: Path) -> bool:
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # no file, or one cut off by a kill: nobody to name
        return {}
    return content if isinstance(content, dict) else {}


def server_finding(root: Path, environment: Mapping[str, str]) -> Finding:
    """Whether the Prefect server that `make rebuild` would use answers, asked for at most three seconds."""
    from httpx import HTTPError, get

    asked = environment.get("PREFECT_API_URL", "")
    note = _read(Path(environment.get("PREFECT_HOME", root / ".prefect")) / "server.json")
    url = asked or str(note.get("url", ""))
    if not url:
        return Finding("ok", "Prefect", "no server; `make rebuild` starts a temporary one, `make serve` one that stays")
    try:
        healthy = get(f"{url}/health", timeout=_SECONDS, **connection(url)).is_success
    except (HTTPError, SettingsError):
        healthy = False
    if healthy:
        return Finding("ok", "Prefect", f"a server answers at {url}")
    fix = "start it (`make serve`) or unset PREFECT_API_URL" if asked else "`make serve` starts it again"
    return Finding("warn" if asked else "ok", "Prefect", f"no server answers at {url}; {fix}")
