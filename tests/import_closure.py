"""What a Python file of this project imports, directly and through others, read from the source alone.

DVC does not follow imports, so the `deps:` of a stage must name every module that it runs: test_layout.py
compares the two.

    python -m tests.import_closure stages/base.py    prints a closure in the form that dvc.yaml wants
    python -m tests.import_closure --write           rewrites the code half of every `deps:` of dvc.yaml in place

Imports inside functions count, imports under `if TYPE_CHECKING:` do not, because they never run. Importing
`a.b.c` runs `a/__init__.py` and `a/b/__init__.py` too; those that are empty are left out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLLOWED = ("distill", "stages", "commands")


def imported_names(source: str, package: str, *, type_checking: bool = False) -> set[str]:
    """The dotted names that `source`, a module of `package`, imports, relative ones made absolute.

    `from a import b` gives both `a` and `a.b`: only the file system knows whether `b` is a module.
    `type_checking` adds the imports under `if TYPE_CHECKING:`.
    """
    names: set[str] = set()
    for node in _nodes(ast.parse(source), type_checking):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    return names


@cache
def closure(start: Path, root: Path = ROOT, packages: tuple[str, ...] = FOLLOWED) -> frozenset[Path]:
    """The non-empty files under `root` that running `start` may import, `start` included, relative to `root`.

    Only files of `packages` are followed and reported.
    """
    found: set[Path] = set()
    waiting = [root / start]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        package = ".".join(file.relative_to(root).parent.parts)
        for name in imported_names(file.read_text(encoding="utf-8"), package):
            if name.split(".")[0] in packages:
                waiting.extend(_files_run_by(name, root))
        # A module started with `python -m` runs the packages above it as well.
        waiting.extend(_files_run_by(package, root))
    return frozenset(file.relative_to(root) for file in found if not is_empty(file))


def third_party(file: Path, root: Path = ROOT) -> set[str]:
    """Top-level names that `file` (relative to `root`) imports anywhere and that Python does not ship."""
    package = ".".join(file.parent.parts)
    names = imported_names((root / file).read_text(encoding="utf-8"), package, type_checking=True)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


def is_empty(file: Path) -> bool:
    """Whether a file holds nothing that could change what a stage computes."""
    return not file.read_text(encoding="utf-8").strip()


def _nodes(tree: ast.AST, type_checking: bool) -> Iterator[ast.AST]:
    """`ast.walk`, leaving out the bodies of `if TYPE_CHECKING:` unless asked for."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and not type_checking and _is_type_checking(child.test):
            for otherwise in child.orelse:
                yield otherwise
                yield from _nodes(otherwise, type_checking)
            continue
        yield child
        yield from _nodes(child, type_checking)


def _is_type_checking(test: ast.expr) -> bool:
    """Whether an `if` asks for `TYPE_CHECKING` or `typing.TYPE_CHECKING`."""
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The dotted name after `from`, with leading dots resolved against `package`."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _files_run_by(name: str, root: Path) -> list[Path]:
    """The files of this project that `import name` runs: the module itself and the packages above it."""
    files = []
    path = root
    for part in name.split(".") if name else ():
        path = path / part
        files += [path / "__init__.py", path.with_name(f"{part}.py")]
    return [file for file in files if file.is_file()]


def grouped(files: Set[Path], root: Path = ROOT) -> list[str]:
    """`files` as lines for `deps:`: a folder where all modules below it are among them, else single files."""
    lines: list[str] = []
    for file in sorted(files):
        if any(file.is_relative_to(line) for line in lines):
            continue
        # The top-level packages are never named whole: each new stage would make all others stale.
        folders = [folder for folder in reversed(file.parents) if len(folder.parts) > 1]
        whole = (folder for folder in folders if python_files(folder, root) <= files)
        lines.append(next(whole, file).as_posix())
    return lines


def python_files(path: Path, root: Path = ROOT) -> set[Path]:
    """The non-empty .py files at or below `path`, relative to `root`."""
    if (root / path).is_file():
        return {path} if path.suffix == ".py" else set()
    return {file.relative_to(root) for file in (root / path).rglob("*.py") if not is_empty(file)}


def main() -> None:
    """Print the closure of each file named on the command line, or bring dvc.yaml up to date."""
    if sys.argv[1:] == ["--write"]:
        from tests.declared_stages import every_stage, with_written_deps

        path = ROOT / "dvc.yaml"
        path.write_text(with_written_deps(path.read_text(encoding="utf-8"), every_stage(), ROOT), "utf-8")
        return
    if not sys.argv[1:]:
        sys.exit("usage: python -m tests.import_closure stages/base.py [...], or --write for all of dvc.yaml")
    for argument in sys.argv[1:]:
        if not (ROOT / argument).is_file():
            sys.exit(f"error: {argument} does not exist; name a file such as stages/base.py")
        print(f"# {argument}")
        for line in grouped(closure(Path(argument))):
            print(f"      - {line}")


if __name__ == "__main__":
    main()
