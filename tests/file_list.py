"""docs/files.md: under the heading of each folder, one line for each of its modules, as the module itself opens.

python -m tests.file_list        brings the lists up to date; the headings and the first section are written by hand
"""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

from tests.import_closure import ROOT, python_files

FILE = Path("docs/files.md")
PACKAGES = ("distill", "stages", "commands", "tasks", "flows", "benchmarks")
_HEADING = re.compile(r"^## `(?P<folder>[\w/]+/)`.*$", re.MULTILINE)


def modules() -> list[Path]:
    """The non-empty modules of all packages, relative to the root."""
    return sorted(file for package in PACKAGES for file in python_files(Path(package), ROOT))


def opening(module: Path) -> str:
    """The first line of a module's docstring, or its first paragraph where the line ends in mid-sentence."""
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8"))) or ""
    line = docstring.partition("\n")[0]
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return (line if line.endswith((".", ":")) else paragraph).rstrip(".")


def updated(text: str) -> str:
    """`text` of docs/files.md with the list under each heading made anew.

    Raises: ValueError for a module whose folder, or the one above it, has no heading.
    """
    headings = {match["folder"]: match for match in _HEADING.finditer(text)}

    def heading(module: Path) -> str:
        for folder in module.parents:
            if f"{folder.as_posix()}/" in headings:
                return f"{folder.as_posix()}/"
        raise ValueError(f"{FILE} has no heading for {module}; add a line like: ## `{module.parent.as_posix()}/`: …")

    lists = {
        folder: "".join(f"- `{m.as_posix().removeprefix(folder)}`: {opening(m)}\n" for m in members)
        for folder, members in groupby(sorted(modules(), key=lambda m: (heading(m), m)), key=heading)
    }
    parts = [text[: min(match.start() for match in headings.values())]]
    parts += [f"{match.group()}\n\n{lists[folder]}\n" for folder, match in headings.items() if folder in lists]
    return "".join(parts).rstrip("\n") + "\n"


def main() -> None:
    """Write docs/files.md."""
    path = ROOT / FILE
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
