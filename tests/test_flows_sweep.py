"""A sweep over the small repository: shared work once, best first, resumable, promoted to a commit."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.sweep import sweep
from tests import tiny_pipeline
from tests.small_repository import ROOT, Server, artifacts, commit, dvc, names, ran, run

pytest_plugins = ["tests.prefect_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

GRID = """
targets: [score]
metric: tiny.minillm.toy.rouge_l
grid:
  "params.yaml:quality": [10.0, 30.0]
"""


PAGE = """
  page:  # no target of the sweep, and no output of it exists
    cmd: python work.py page.txt 1 results/tiny.json
    deps: [work.py, results/tiny.json]
    outs: [page.txt]
"""


def test_a_sweep_builds_shared_stages_once(repository: Path, prefect_server: Server, client: SyncPrefectClient) -> None:
    with (repository / "dvc.yaml").open("a") as pipeline:
        pipeline.write(PAGE)
    commit(repository, "A page")
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
    dvc(repository, "checkout", "--quiet", "--allow-missing")
    assert set(json.loads(dvc(repository, "status", "--json"))) == {"page"}


def test_a_file_that_is_no_sweep_is_told_before_a_server_starts(tmp_path: Path) -> None:
    variables = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.sweep", "nosuch.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nosuch.yaml cannot be read")
    assert "server" not in done.stderr


@pytest.mark.slow
def test_a_shipped_sweep_ends_with_its_table(
    tmp_path: Path, prefect_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny_pipeline.make(tmp_path / "toy")
    tiny_pipeline.edit(root / "params.yaml", "students", {"tiny": {"family": "toy"}})
    tiny_pipeline.edit(root / "params.yaml", "families", {"toy": "distill/world"})
    tiny_pipeline.edit(root / "params.yaml", "datasets", {"toy_id": "data/toy/tests/toy_id.jsonl"})
    tiny_pipeline.set_methods(root, "sft", "minillm")
    profile = (root / tiny_pipeline.MINI).read_text().replace("    small:\n", "    tiny:\n")
    (root / tiny_pipeline.MINI).unlink()
    (root / "profiles/toy.yaml").write_text(profile)
    text = (ROOT / "sweeps/learning_rate.yaml").read_text()
    (root / "sweeps").mkdir()
    (root / "sweeps/learning_rate.yaml").write_text(text.replace("[1e-3, 2e-3, 4e-3, 8e-3]", "[1e-3, 8e-3]"))
    tiny_pipeline.commit(root, "The toy's names")
    monkeypatch.chdir(root)
    monkeypatch.setenv("GPU_LEASES", str(tmp_path / "leases"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, value in tiny_pipeline.environment().items():
        monkeypatch.setenv(name, value)

    state = sweep("sweeps/learning_rate.yaml", return_state=True)
    assert state.is_completed(), state.message
    with (root / "results/sweeps/learning_rate.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    scores = [float(row["tiny.minillm.toy_id.rouge_l"]) for row in rows]
    assert {row["point"] for row in rows} == {"learning_rate=0.001", "learning_rate=0.008"}
    assert scores == sorted(scores, reverse=True)
    listed = tiny_pipeline.dvc(root, "exp", "list", "--name-only").split()
    assert set(listed) == {"learning_rate-learning_rate=0.001", "learning_rate-learning_rate=0.008"}
