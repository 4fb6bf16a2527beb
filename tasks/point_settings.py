"""The settings of a sweep's point: `file:key` and a value, written into YAML files of its clone and into no other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import RebuildError

_NOT_OF_THE_COMMIT = (".git", ".dvc")


def place_fault(place: object) -> str | None:
    """The fault of a setting's name, None for a sound `file:key`; the file is one of the clone, written plainly."""
    file, colon, dotted = place.partition(":") if isinstance(place, str) else ("", "", "")
    if not colon:
        return f"{place}: write a setting as file:key"
    parts = file.split("/")
    plain = file.isprintable() and file == file.strip() and "\\" not in file and not file.startswith("~")
    if not plain or not set(parts).isdisjoint({"", ".", ".."}) or parts[0] in _NOT_OF_THE_COMMIT:
        return f"{place}: name a file of the project from its top folder, such as profiles/toy.yaml"
    if not all(key.strip() == key != "" for key in dotted.split(".")):
        return f"{place}: write the key as section.key"
    return None


def write_settings(root: Path, settings: Mapping[str, Any]) -> None:
    """Write `settings` into the YAML files of a clone, keeping their comments and order.

    Raises: RebuildError when a file is none of the clone's or no YAML, or the section a setting belongs to does not
        exist.
    """
    for place, value in settings.items():
        if fault := place_fault(place):
            raise RebuildError(f"{fault}.\nCorrect the sweep.")
        file, _, dotted = place.partition(":")
        path = _own_file(root, file, place)
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = 4096  # never fold a long line that was one line before
        content = _read(yaml, path, place)
        *sections, last = dotted.split(".")
        inner: Any = content
        for number, section in enumerate(sections):
            inner = inner.get(section)
            if not isinstance(inner, dict):
                named = ".".join(sections[: number + 1])
                raise RebuildError(f"{place}: {file} has no section {named!r}.\nCheck the setting's spelling.")
        # True equals 1 in Python, and is another setting.
        if last not in inner or inner[last] != value or isinstance(inner[last], bool) != isinstance(value, bool):
            inner[last] = value
            yaml.dump(content, path)


def _own_file(root: Path, file: str, place: str) -> Path:
    """A file of the clone. One that is also elsewhere, by a link, would change there too."""
    path = root / PurePosixPath(file)
    if not path.is_file():
        raise RebuildError(f"{place}: there is no {file}.\nName a file of settings of this commit.")
    if not path.resolve().is_relative_to(root.resolve()) or path.stat().st_nlink > 1:
        raise RebuildError(f"{place}: {file} is a link out of the clone.\nName a file of settings of this commit.")
    return path


def _read(yaml: YAML, path: Path, place: str) -> dict[str, Any]:
    try:
        content = yaml.load(path)
    except (YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RebuildError(f"{place}: {path.name} is no YAML ({reason}).\nName a file of settings.") from error
    if not isinstance(content, dict):
        raise RebuildError(f"{place}: {path.name} holds no keys and values.\nName a file of settings.")
    return content
