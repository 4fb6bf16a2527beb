"""Fixtures of the orchestration's tests: the small repository, and one Prefect server for a whole session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tests.small_repository import PARAMS, PIPELINE, ROOT, SCORE, WORK, Server, commit, dvc, run


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that `repository` copies: committed, never built."""
    root = tmp_path_factory.mktemp("template") / "small"
    root.mkdir()
    for name, content in (
        ("work.py", WORK),
        ("score.py", SCORE),
        ("dvc.yaml", PIPELINE),
        ("params.yaml", PARAMS),
    ):
        (root / name).write_text(content)
    (root / ".gitignore").write_text("/log.txt\n/.resume/\n/hold-*\n/fail-*\n/broken-*\n")
    run(root, "git", "init", "--quiet", "--initial-branch", "main")
    run(root, "git", "config", "user.email", "test@example.org")
    run(root, "git", "config", "user.name", "Test")
    dvc(root, "init", "--quiet")
    commit(root, "Start")
    return root


@pytest.fixture
def repository(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh small repository, and the current folder; no GPU is visible, leases lie in a folder of the test's own."""
    root = tmp_path / "small"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("GPU_LEASES", str(tmp_path / "leases"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    return root


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a process: starting it costs ten seconds of CPU."""
    server = Server(tmp_path_factory.mktemp("prefect"))
    server.start()
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.home}):
        yield server
        APILogHandler().flush()  # or the process would wait at its end for a server that is gone
    server.kill()


@pytest.fixture
def prefect_server(session_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The session's server, also for the processes a test starts."""
    for name, value in session_server.environment.items():
        monkeypatch.setenv(name, value)
    return session_server


@pytest.fixture
def client(prefect_server: Server) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made
