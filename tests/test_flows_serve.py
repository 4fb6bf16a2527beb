"""Server, schedule and worker on one machine: a schedule that fires, to the commit it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.server import answers
from tests.small_repository import ROOT, ask, commit, dvc, free_port, run, until, with_flows

pytest_plugins = ["tests.prefect_fixtures"]


@pytest.mark.slow
def test_a_scheduled_run_from_the_clock_to_the_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_flows(repository)
    schedule = repository / "prefect.yaml"
    cron = '{cron: "0 2 * * *", timezone: UTC}'
    assert cron in schedule.read_text()
    schedule.write_text(schedule.read_text().replace(cron, "{interval: 30}"))
    dvc(repository, "remote", "add", "--quiet", "--default", "shared", str(tmp_path / "remote"))
    commit(repository, "Schedule")

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "2")
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "5")
    port = free_port()
    output = tmp_path / "serve.txt"
    serve = subprocess.Popen(
        [sys.executable, "-m", "flows.serve", "--port", str(port)],
        cwd=repository,
        stdout=output.open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        until(lambda: "Ready: " in output.read_text() or serve.poll() is not None, seconds=180)
        assert serve.poll() is None, output.read_text()
        branches = ["git", "branch", "--list", "nightly/toy"]
        until(lambda: "nightly/toy" in run(repository, *branches), seconds=240)
        with (
            temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
            get_client(sync_client=True) as client,
        ):
            fired = ask(client, "flow_runs", flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}})
            until(lambda: ask(client, "artifacts", artifacts={"key": {"any_": ["rebuild-report"]}}))
        assert all(one["auto_scheduled"] for one in fired)
    finally:
        serve.send_signal(signal.SIGINT)
        assert until(lambda: serve.poll() is not None, seconds=60) < 20

    # What it left: numbers on a branch, results in the remote, and nobody's working tree touched.
    assert "Rebuild: 5 Built" in run(repository, "git", "log", "-1", "--format=%s", "nightly/toy")
    assert "rouge_l" in run(repository, "git", "show", "nightly/toy:results/tiny.json")
    assert list((tmp_path / "remote").rglob("runs/*/*/*"))
    assert run(repository, "git", "status", "--porcelain") == ""
    assert run(repository, "git", "branch", "--show-current").strip() == "main"
    assert not (repository / "first.txt").exists()
    # In the morning: the results come from the cache that both clones share.
    run(repository, "git", "merge", "--quiet", "nightly/toy")
    dvc(repository, "checkout", "--quiet")
    assert "up to date" in dvc(repository, "status")
    assert not answers(f"http://127.0.0.1:{port}/api")


@pytest.mark.parametrize("text", [None, "deployments: 3\n", "deployments: [{name: x}]\n", "a: [\n"])
def test_a_schedule_that_cannot_be_read_is_told_before_anything_starts(tmp_path: Path, text: str | None) -> None:
    schedule = tmp_path / "mine.yaml"
    if text is not None:
        schedule.write_text(text)
    command = [sys.executable, "-m", "flows.serve", "--schedule", str(schedule)]
    variables = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {schedule} is no schedule: its `deployments` must be a list")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
