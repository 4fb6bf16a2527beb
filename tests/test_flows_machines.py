"""More than one machine: two clones, two runs, one DVC remote; the graph is divided, each stage built once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient

from tests.small_repository import Server, commit, dvc, free_port, ran, run, until, with_flows

pytest_plugins = ["tests.prefect_fixtures"]
pytestmark = pytest.mark.slow
STAGES = ["first", "last", "left", "right"]


def two_clones(repository: Path, remote: str, **options: str) -> list[Path]:
    """Two clones of `repository` that share a DVC remote; its score is cached, so that it can be restored too."""
    pipeline = repository / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("results/tiny.json: {cache: false}", "results/tiny.json"))
    dvc(repository, "remote", "add", "--quiet", "--default", "shared", remote)
    for name, value in options.items():
        dvc(repository, "remote", "modify", "--quiet", "shared", name, value)
    commit(repository, "Share")
    clones = [repository.parent / name for name in ("one", "two")]
    for clone in clones:
        run(repository, "git", "clone", "--quiet", str(repository), str(clone))
    return clones


def outputs(clone: Path) -> dict[str, str]:
    paths = ["first.txt", "left.txt", "right.txt", "last.txt", "results/tiny.json"]
    return {path: (clone / path).read_text() for path in paths}


def assert_divided(repository: Path, clones: list[Path]) -> None:
    assert sorted(ran(clones[0]) + ran(clones[1])) == STAGES
    assert all(ran(clone) for clone in clones), "one machine did everything"
    dvc(repository, "repro")  # on one machine, from nothing
    assert outputs(clones[0]) == outputs(clones[1]) == outputs(repository)


def test_two_clones_and_a_directory(repository: Path, tmp_path: Path, prefect_server: Server) -> None:
    clones = two_clones(repository, str(tmp_path / "remote"))
    command = [sys.executable, "-m", "flows.rebuild", "--publish", "--slots", "1"]
    runs = [
        subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for clone in clones
    ]
    said = [process.communicate(timeout=300)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert "waiting for it" in said[0] + said[1]
    assert_divided(repository, clones)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 endpoint on loopback with one bucket."""
    port = free_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(moto, stderr=subprocess.DEVNULL)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, seconds=60)
    endpoint = f"http://127.0.0.1:{port}"
    httpx.put(f"{endpoint}/shared-results").raise_for_status()
    yield endpoint
    process.kill()
    process.wait()


def test_two_workers_and_s3(repository: Path, prefect_server: Server, client: SyncPrefectClient, s3: str) -> None:
    with_flows(repository)
    clones = two_clones(repository, "s3://shared-results/dvc", endpointurl=s3)
    prefect = [sys.executable, "-m", "prefect"]
    run(repository, *prefect, "work-pool", "create", "toy", "--type", "process", "--overwrite")
    run(repository, *prefect, "--no-prompt", "deploy", "--name", "shared")
    workers = [
        subprocess.Popen(
            [*prefect, "worker", "start", "--pool", "toy", "--limit", "1", "--name", clone.name],
            cwd=clone,
            env={**os.environ, "PWD": str(clone), "PYTHONPATH": f"{clone}:{os.environ['PYTHONPATH']}"},
        )
        for clone in clones
    ]
    try:
        deployment = client.read_deployment_by_name("rebuild/shared")
        runs = [client.create_flow_run_from_deployment(deployment.id, parameters={"slots": 1}) for _ in clones]

        def done() -> bool:
            states = [client.read_flow_run(created.id).state for created in runs]
            assert not any(state and (state.is_failed() or state.is_crashed()) for state in states), states
            return all(state and state.is_completed() for state in states)

        until(done, seconds=300)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
    assert_divided(repository, clones)
