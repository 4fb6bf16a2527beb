"""Python without docstrings and asserts (PYTHONOPTIMIZE=2): commands start again with them, and no assert is missed."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from distill.project.errors import run_stage
from tests.import_closure import ROOT
from tests.tiny_pipeline import environment

FOLDERS = ("stages", "commands", "tasks", "flows", "benchmarks")


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def commands() -> list[str]:
    typed = [path for path in files("stages", "commands") if "ArgumentParser(" in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in typed]


@pytest.mark.parametrize("name", [*commands(), "tasks.side_by_side"])
def test_a_command_without_docstrings_starts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "__doc__", None)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        run_stage(module.main)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("flags", [("-OO", "-m", "commands.show"), ("-OOm", "commands.show")])
def test_a_command_starts_again_with_docstrings(flags: tuple[str, ...]) -> None:
    # transformers cannot be imported without
    command = [sys.executable, *flags, "--markdown", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Show the results of every student" in done.stdout


def test_nothing_is_read_off_a_docstring_that_may_be_none() -> None:
    for path in files(*FOLDERS):
        text = path.read_text(encoding="utf-8").replace("__doc__ and __doc__.", "")
        assert "__doc__." not in text and "(__doc__ or" not in text, f"{path}: write `__doc__ and __doc__.…`"


def test_asserts_only_tell_the_type_checker_what_is_known() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in files("distill", *FOLDERS)}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text if " assert " in text else "")):
            if isinstance(node, ast.Assert):
                tests = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
                assert all(map(is_narrowing, tests)), f"{path}:{node.lineno}: raise an error; -O removes asserts"


def is_narrowing(test: ast.expr) -> bool:
    """Whether a test is `x is not None` or `isinstance(x, …)`, and does nothing else."""
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
