"""Two clones, two rebuilds, one DVC remote: the graph is divided, each stage built once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.small_repository import Server, commit, dvc, ran, run

pytest_plugins = ["tests.prefect_fixtures"]


def two_clones(repository: Path, remote: str) -> list[Path]:
    """Two clones of `repository` that share a DVC remote; its score is cached, so that it can be restored too."""
    pipeline = repository / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("results/tiny.json: {cache: false}", "results/tiny.json"))
    dvc(repository, "remote", "add", "--quiet", "--default", "shared", remote)
    commit(repository, "Share")
    clones = [repository.parent / name for name in ("one", "two")]
    for clone in clones:
        run(repository, "git", "clone", "--quiet", str(repository), str(clone))
    return clones


def rebuild(clone: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.rebuild", "--publish", "--slots", "1", *arguments]
    return subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outputs(clone: Path) -> dict[str, str]:
    paths = ["first.txt", "left.txt", "right.txt", "last.txt", "results/tiny.json"]
    return {path: (clone / path).read_text() for path in paths}


def test_two_machines_build_each_stage_once(repository: Path, tmp_path: Path, prefect_server: Server) -> None:
    clones = two_clones(repository, str(tmp_path / "remote"))
    runs = [rebuild(clone) for clone in clones]
    said = [process.communicate(timeout=120)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert sorted(ran(clones[0]) + ran(clones[1])) == ["first", "last", "left", "right"]
    assert "left" not in ran(clones[0]) or "right" not in ran(clones[0]), "both branches ran on one machine"
    assert "waiting for it" in said[0] + said[1]
    dvc(repository, "repro")
    assert outputs(clones[0]) == outputs(clones[1]) == outputs(repository)
