"""A sweep over the small repository: shared work once, best first, resumable, promoted to a commit."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.sweep import sweep
from tests.small_repository import ROOT, Server, artifacts, dvc, names, ran, run

pytest_plugins = ["tests.prefect_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

GRID = """
metric: tiny.minillm.toy.rouge_l
grid:
  "params.yaml:quality": [10.0, 30.0]
"""


def test_a_sweep_builds_shared_stages_once(repository: Path, prefect_server: Server, client: SyncPrefectClient) -> None:
    (repository / "sweeps").mkdir()
    file = repository / "sweeps/quality.yaml"
    file.write_text(GRID)
    state = sweep(str(file), return_state=True)
    assert state.is_completed(), state.message

    clones = sorted((repository / ".dvc/tmp/sweeps/quality").iterdir())
    assert [clone.name for clone in clones] == ["quality=10.0", "quality=30.0"]
    assert sorted(name for clone in clones for name in ran(clone)) == ["first", "last", "left", "right"]
    assert ran(repository) == []

    with (repository / "results/sweeps/quality.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["tiny.minillm.toy.rouge_l"]) for row in rows] == [30.0, 10.0]
    assert [float(row["tiny.minillm.toy.rouge_l.high"]) for row in rows] == [31.0, 11.0]
    assert "| quality=30.0 | 30.0 | 30 [29, 31] |" in artifacts(client, state)["sweep"]["data"]

    again = sweep(str(file), return_state=True)
    assert set(names(client, again).values()) == {"UpToDate"}

    promote = [sys.executable, "-m", "flows.sweep", str(file), "--promote", "quality=30.0", "--branch", "best"]
    subprocess.run(promote, cwd=repository, check=True)
    assert "quality: 30.0" in run(repository, "git", "show", "best:params.yaml")
    run(repository, "git", "checkout", "--quiet", "best")
    dvc(repository, "checkout", "--quiet")
    assert dvc(repository, "status").strip() == "Data and pipelines are up to date."


def test_a_file_that_is_no_sweep_is_told_before_a_server_starts(tmp_path: Path) -> None:
    variables = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.sweep", "nosuch.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nosuch.yaml cannot be read")
    assert "server" not in done.stderr
