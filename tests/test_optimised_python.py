"""Python without docstrings and asserts (PYTHONOPTIMIZE=2): commands start again with them, and no assert is missed."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.import_closure import ROOT
from tests.tiny_pipeline import environment

FOLDERS = ("distill", "stages", "commands", "tasks", "flows", "benchmarks")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-OO", "-m", "commands.show"), "Show the results of every student"),
        (("-OOm", "commands.show"), "Show the results of every student"),
        (("-OO", "-m", "stages.rouge"), "Score answers"),
        (("-OO", "-m", "tasks.side_by_side"), "independent stages side by side"),
    ],
)
def test_a_command_starts_again_with_docstrings(flags: tuple[str, ...], said: str) -> None:
    # transformers cannot be imported without
    command = [sys.executable, *flags, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stdout.split())


def test_asserts_only_tell_the_type_checker_what_is_known() -> None:
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text if " assert " in text else "")):
            if isinstance(node, ast.Assert):
                tests = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
                assert all(map(is_narrowing, tests)), f"{path}:{node.lineno}: raise an error; -O removes asserts"


def is_narrowing(test: ast.expr) -> bool:
    """Whether a test is `x is not None` or `isinstance(x, …)`, and does nothing else."""
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
