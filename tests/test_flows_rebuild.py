"""The rebuild flow against a real Prefect server: what runs, what does not, what people see."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.automations import Automation, EventTrigger, Posture
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification

from flows.rebuild import rebuild
from tasks.claims import Claims
from tests.small_repository import Server, artifacts, build, change, commit, dvc, logged, names, ran, until

pytest_plugins = ["tests.prefect_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")
STAGES = ["first", "left", "right", "last", "score"]


def test_builds_then_restores_then_does_nothing(
    repository: Path, prefect_server: Server, client: SyncPrefectClient
) -> None:
    assert names(client, build()) == dict.fromkeys(STAGES, "Built")
    assert dvc(repository, "status").strip() == "Data and pipelines are up to date."

    before = len(ran(repository))
    change(repository, "left: 1", "left: 2")
    # left's new text is the old one, so DVC finds last unchanged, and then nothing is started for score
    assert names(client, build()) == {**dict.fromkeys(STAGES, "UpToDate"), "left": "Built"}
    assert ran(repository)[before:] == ["left"]

    change(repository, "left: 2", "left: 1")
    assert names(client, build())["left"] == "Restored"
    assert len(ran(repository)) == before + 1

    final = build()
    assert final.name == "UpToDate"
    assert set(names(client, final).values()) == {"UpToDate"}
    assert len(ran(repository)) == before + 1


def test_targets_bring_only_what_they_need(repository: Path, prefect_server: Server, client: SyncPrefectClient) -> None:
    assert sorted(names(client, build(targets=["right"]))) == ["first", "right"]
    assert ran(repository) == ["first", "right"]
    wrong = build(targets=["rihgt"])
    assert wrong.is_failed()
    assert "rihgt" in (wrong.message or "")


def test_two_slots_run_side_by_side_and_one_does_not(repository: Path, prefect_server: Server) -> None:
    assert build(slots=2).is_completed()
    assert overlap(repository)
    change(repository, "left: 1", "left: 2")
    change(repository, "right: 1", "right: 2")
    (repository / "log.txt").unlink()
    assert build(slots=1).is_completed()
    assert not overlap(repository)


def overlap(repository: Path) -> bool:
    """Whether `left` and `right`, which take at least a second each, ran at the same time."""
    lines = [line.split() for line in (repository / "log.txt").read_text().splitlines()]
    began = {name: float(when) for name, *_, when in lines}
    return abs(began["left"] - began["right"]) < 1.0


def test_log_and_progress_reach_the_ui(repository: Path, prefect_server: Server, client: SyncPrefectClient) -> None:
    pipeline = repository / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("left.txt 10", "left.txt 30"))
    state = build(targets=["left"])
    until(lambda: "made left.txt" in logged(client, state))
    assert "Running stage 'left':" in logged(client, state)

    shown = artifacts(client, state)
    progress = shown["progress-left"]
    assert progress["type"] == "progress"
    assert float(progress["data"]) == 100.0
    assert "step 30 of 30" in progress["description"]
    assert "loss 0.03333" in progress["description"]
    assert "2 Built" in shown["rebuild-report"]["data"]


def test_report_and_gate(
    repository: Path, prefect_server: Server, client: SyncPrefectClient, messages: list[str]
) -> None:
    assert build().is_completed()
    commit(repository, "Built")
    change(repository, "quality: 20.0", "quality: 19.5")
    assert build(fail_if_worse=True).is_completed()  # within noise

    change(repository, "quality: 19.5", "quality: 15.0")
    state = build(fail_if_worse=True)
    assert state.name == "Worse"
    assert "tiny.minillm.toy.rouge_l: 20 [19, 21] → 15 [14, 16]" in (state.message or "")

    report = artifacts(client, state)["rebuild-report"]["data"]
    assert "| tiny.minillm.toy.rouge_l | 20 [19, 21] | 15 [14, 16] | -5 [-6.41, -3.59] | worse |" in report
    assert "| `params.yaml: quality` | 20.0 | 15.0 |" in report
    assert "| score | Built |" in report
    assert "4 stages were up to date" in report

    until(lambda: messages)  # the event became a message by itself
    assert "tiny.minillm.toy.rouge_l 20 [19, 21] -> 15 [14, 16]" in messages[0]

    assert build().is_completed()
    assert build(fail_if_worse=True).name == "Worse", "nothing is built any more, and it is as bad as before"


def test_a_gate_that_cannot_compare_does_not_pass(
    repository: Path, prefect_server: Server, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build().is_completed()
    commit(repository, "Built")
    change(repository, "quality: 20.0", "quality: 15.0")
    (repository / "commands").mkdir()  # hides the project's own
    (repository / "commands/__init__.py").touch()
    (repository / "commands/compare.py").write_text("raise SystemExit('error: out of order; mend it')\n")
    state = build()
    assert state.is_completed()
    report = artifacts(client, state)["rebuild-report"]["data"]
    assert "## Not compared with" in report
    assert "`python -m commands.compare HEAD` failed: error: out of order; mend it" in report
    assert "| score | Built |" in report

    state = build(fail_if_worse=True)
    assert (state.is_failed(), state.name) == (True, "NotCompared")
    assert "error: out of order; mend it" in (state.message or "")


@pytest.fixture
def messages(prefect_server: Server) -> Iterator[list[str]]:
    """What a webhook on loopback is told by the automation of docs/orchestration.md."""
    told: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(200)
            self.end_headers()

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{listener.server_port}/"
    content = {"name": "chat", "url": url, "json_data": {"text": "{{subject}}: {{body}}"}}
    block = CustomWebhookNotificationBlock.model_validate(content)
    lines = "{% for name, v in event.payload.metrics.items() %}{{ name }} {{ v[0] }} -> {{ v[1] }} {% endfor %}"
    saved = block.save("chat", overwrite=True)
    assert isinstance(saved, UUID)
    action = SendNotification(block_document_id=saved, subject="numbers got worse", body=lines)
    trigger = EventTrigger(expect={"rebuild.worse"}, posture=Posture.Reactive, threshold=1, within=timedelta(0))
    Automation(name="worse", trigger=trigger, actions=[action]).create()
    yield told
    listener.shutdown()


def test_a_claim_of_a_dead_run_is_taken_over(prefect_server: Server, client: SyncPrefectClient) -> None:
    said: list[str] = []
    dead = Claims(client, "remote", uuid4(), said.append)  # a run that the server does not know
    living = client.create_flow_run(rebuild).id
    holder, other = Claims(client, "remote", living, said.append), Claims(client, "remote", living, said.append)
    assert dead.take("a@b")
    assert holder.take("a@b"), "nobody builds it any more"
    assert not other.take("a@b")
    holder.give_back("a@b")
    until(lambda: other.take("a@b"))
    assert len(said) == 2
    assert said[1].endswith(f"by flow run {living}; waiting for it")


def test_the_installed_server_understands_its_own_workers(prefect_server: Server, client: SyncPrefectClient) -> None:
    # A worker asks with nulls; fastapi from 0.151 on answers 422 to that, and every worker dies at its start.
    asked = {"workers": None, "limit": None, "offset": None}
    created = client._client.post("/work_pools/", json={"name": "any", "type": "process"})
    assert created.is_success
    assert client._client.post("/work_pools/any/workers/filter", json=asked).is_success
