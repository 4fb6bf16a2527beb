"""Ctrl-C while a command still imports what it needs: a sentence, and the signal's own end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_closure import ROOT
from tests.tiny_pipeline import environment

# Python runs this file at its start: the process presses Ctrl-C for itself when it first looks for a package.
PRESS = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("PRESS_AT"):
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
"""


@pytest.mark.parametrize(
    ("module", "package", "sentence"),
    [
        (
            "stages.respond",
            "pydantic",
            "interrupted: nothing half-written was kept; run the same command to continue",
        ),
        ("commands.check", "pydantic", "interrupted: nothing half-written was kept; run the same command to continue"),
        ("tasks.side_by_side", "rich.console", "interrupted: run the same command to continue"),
        ("benchmarks.growth", "torch", "interrupted: run the same command to continue"),
        ("flows.rebuild", "prefect", "interrupted: run the same command to continue"),
    ],
)
def test_ctrl_c_during_imports(tmp_path: Path, module: str, package: str, sentence: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(PRESS)
    variables = {**environment(), "PYTHONPATH": str(tmp_path), "PRESS_AT": package}
    command = [sys.executable, "-m", module]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert ran.stderr == f"{sentence}\n"
    assert ran.returncode == -signal.SIGINT


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pydantic'] = None\n")
    variables = {**environment(), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "commands.check"]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert ran.stderr.startswith("Traceback")
    assert ran.returncode == 1
