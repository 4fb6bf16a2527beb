"""The rebuild flow against a real Prefect server: what runs, what does not, what people see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import State

from flows.rebuild import rebuild
from tests.small_repository import Server, dvc, ran, until

pytest_plugins = ["tests.small_repository"]


def build(**parameters: Any) -> State[Any]:
    state: State[Any] = rebuild(**parameters, return_state=True)
    return state


def states(client: SyncPrefectClient, state: State[Any]) -> dict[str, tuple[str, str]]:
    """Task names of a run with the name and message of the state the UI shows."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    found: dict[str, tuple[str, str]] = {}

    def all_final() -> bool:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
        found.update({r.name: (r.state.name or "", r.state.message or "") for r in runs if r.state})
        return all(r.state and (r.state.is_final() or r.state.name == "NotReady") for r in runs)

    until(all_final)  # task states travel as events, a moment after the run's own
    return found


def names(client: SyncPrefectClient, state: State[Any]) -> dict[str, str]:
    return {name: shown for name, (shown, _) in states(client, state).items()}


def test_builds_then_restores_then_does_nothing(
    repository: Path, prefect_server: Server, client: SyncPrefectClient
) -> None:
    assert names(client, build()) == dict.fromkeys(["first", "left", "right", "last", "score"], "Built")
    assert ran(repository) == ["first", *sorted(ran(repository)[1:3]), "last"] or ran(repository)[-1] == "last"
    assert dvc(repository, "status").strip() == "Data and pipelines are up to date."

    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("left: 1", "left: 2"))
    before = len(ran(repository))
    # left's new text is the same, so DVC itself finds last unchanged.
    assert names(client, build()) == {
        "first": "UpToDate",
        "right": "UpToDate",
        "left": "Built",
        "last": "UpToDate",
        "score": "UpToDate",
    }
    assert ran(repository)[before:] == ["left"]

    params.write_text(params.read_text().replace("left: 2", "left: 1"))
    assert names(client, build())["left"] == "Restored"
    assert len(ran(repository)) == before + 1

    final = build()
    assert final.name == "UpToDate"
    assert set(names(client, final).values()) == {"UpToDate"}
