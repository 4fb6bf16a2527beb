"""Reading and writing of files, none of them ever half-written.

Every writer writes beside its target, syncs, then renames: after a crash the target is either the old
content or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from types import NoneType
from typing import Any

from distill.project.errors import DataError


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; parent folders are made."""
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path, shape: type | tuple[type, ...] = dict) -> Any:
    """Read a JSON file this project wrote: a mapping, unless `shape` says otherwise.

    Raises: DataError with the file's name when it is missing, damaged, or holds something else.
    """
    with _readable(path):
        return _shaped(path, json.loads(path.read_text(encoding="utf-8")), shape)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file this project wrote (foreign files go through `distill.data.sources`).

    Raises: DataError as `read_json` does; every line is a mapping.
    """
    with _readable(path), path.open(encoding="utf-8") as stream:
        return [_shaped(path, json.loads(line), dict) for line in stream]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run `dvc repro` to make it") from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise damaged(path, str(error)) from None


def _shaped(path: Path, content: Any, shape: type | tuple[type, ...]) -> Any:
    if not isinstance(content, shape):
        raise damaged(path, f"it holds {_JSON_NAMES.get(type(content), 'a number')} in place of {_names(shape)}")
    return content


_JSON_NAMES: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
}


def _names(shape: type | tuple[type, ...]) -> str:
    kinds = shape if isinstance(shape, tuple) else (shape,)
    return " or ".join(_JSON_NAMES[kind] for kind in kinds)


def damaged(path: Path, reason: str) -> DataError:
    """The error about a file of this project that does not hold what was written into it."""
    return DataError(f"{path} is damaged ({reason}); delete it and run `dvc repro`")


@contextmanager
def fresh_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it becomes `path`, on failure it is removed."""
    aside = _aside(path)
    aside.mkdir()
    try:
        yield aside
        for place in sorted(aside.rglob("*")):
            sync(place)
        if path.exists():
            shutil.rmtree(path)
        os.replace(aside, path)
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` for a library to write; on success it becomes `path`."""
    aside = _aside(path)
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """A name beside `path`, in a folder that exists; leftovers of killed processes are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(path: Path) -> str:
    """One SHA-256 over a file, or over the names and contents of all files below a folder."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
