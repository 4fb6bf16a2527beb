"""What `commands.adopt` changes in params.yaml: new rows, and with `--only` no others; and YAML whose comments stay."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.project.files import write_text
from distill.project.table import PARAMS

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap


def add_rows(name: str, family: str, test: str, only: bool) -> None:
    """Put the rows first in each mapping of the table; `only` takes out the others, labelled and judged sets too."""
    content = read_commented(PARAMS)
    for kind, key, value in (
        ("students", f"{name}-student", _flow({"family": name})),
        ("families", name, family),
        ("datasets", f"{name}_test", test),
    ):
        content[kind].insert(0, key, value)
        if only:
            _keep_first(content, kind)
    if only:
        _empty(content, "calibration")
        judge = content.get("judge") or {}
        if judge.get("datasets"):
            # What is judged stands in `datasets`, and costs money: for other rows it is to be asked for anew.
            judge["datasets"], judge["enabled"] = [], False
    write_commented(PARAMS, content)


def former_results(students: list[str]) -> list[str]:
    """The files of `results/` that belong to students which the table no longer has."""
    found = (path for student in students for path in Path("results").glob(f"{student}.*"))
    return sorted(path.as_posix() for path in found)


def read_commented(path: Path) -> Any:
    """The content of a YAML file with its comments."""
    return _yaml().load(path.read_text(encoding="utf-8"))


def write_commented(path: Path, content: Any) -> None:
    """Write what `read_commented` gave, comments and all."""
    stream = io.StringIO()
    _yaml().dump(content, stream)
    write_text(path, stream.getvalue())


def replace_comment(content: CommentedMap, key: str, comment: str) -> None:
    """Put another comment beside an entry that has one; what stands on the lines behind it stays."""
    beside = (content.ca.items.get(key) or [None] * 4)[2]
    if beside is not None:
        beside.value = f"# {comment}\n" + str(beside.value).partition("\n")[2]


def _yaml() -> YAML:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _flow(values: Mapping[str, Any]) -> CommentedMap:
    from ruamel.yaml.comments import CommentedMap

    made = CommentedMap(values)
    made.fa.set_flow_style()
    return made


def _keep_first(content: CommentedMap, kind: str) -> None:
    mapping = content[kind]
    behind = _behind(mapping)
    first, *others = mapping
    for other in others:
        del mapping[other]
    if behind:
        mapping.ca.items[first] = [None, None, _comment("\n" + behind, 0), None]


def _empty(content: CommentedMap, kind: str) -> None:
    """Leave `{}` of a mapping, with the comment beside its name and the text before the next name."""
    mapping = content.get(kind)
    if not mapping:
        return
    behind = "" if mapping.fa.flow_style() else _behind(mapping)
    beside = (content.ca.items.get(kind) or [None] * 4)[2]
    content[kind] = _flow({})
    if behind:
        text = (beside.value if beside is not None else "\n") + behind
        column = beside.start_mark.column if beside is not None else 0
        content.ca.items[kind] = [None, None, _comment(text, column), None]


def _behind(mapping: CommentedMap) -> str:
    """The empty lines and comments between a mapping and what comes next; they hang on its last entry."""
    last = mapping.ca.items.get(list(mapping)[-1])
    return "" if last is None or last[2] is None else str(last[2].value).partition("\n")[2]


def _comment(text: str, column: int) -> Any:
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    return CommentToken(text, CommentMark(column), None)
