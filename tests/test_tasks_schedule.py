"""The order of work, with made-up stages that end when the test says so."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.graph import Stage
from tasks.leases import Lease, Slots
from tasks.schedule import Ending, Finish, Node, Outcome, run_nodes


def node(name: str, *after: str, changed: bool = True, gpus: int = 0, **meta: bool) -> Node:
    stage = Stage(name, after, (), (), (), gpus, retries=0, retry_delay_s=0.0, key=name, **meta)
    return Node(name, stage, "here", after, changed)


def play(
    nodes: list[Node],
    outcome: Callable[[str], Outcome] = lambda _: Outcome.BUILT,
    slots: Slots | None = None,
    stopped: Callable[[], bool] = lambda: False,
    claim: Callable[[Node], bool] = lambda _: True,
) -> tuple[dict[str, Ending], list[str]]:
    """Run a schedule whose stages end at once; the endings and the order in which stages started."""
    started: list[str] = []

    def start(begun: Node, _: Lease, finish: Finish) -> None:
        started.append(begun.key)
        threading.Timer(0.01, finish, (outcome(begun.key), "")).start()

    box = slots or Slots((), 2)
    return run_nodes(nodes, box, start, lambda *_: None, stopped, claim), started


def outcomes(endings: dict[str, Ending]) -> dict[str, str]:
    return {name: str(ending.outcome) for name, ending in endings.items()}


def test_what_is_current_is_not_started() -> None:
    endings, started = play([node("a", changed=False), node("b", "a"), node("c", "a", changed=False)])
    assert started == ["b"]
    assert outcomes(endings) == {"a": "UpToDate", "b": "Built", "c": "UpToDate"}


def test_below_a_rebuilt_stage_dvc_is_asked_again() -> None:
    _, started = play([node("a"), node("b", "a", changed=False), node("c", "b", changed=False)])
    assert started == ["a", "b", "c"]
    _, started = play(
        [node("a"), node("b", "a", changed=False), node("c", "b", changed=False)],
        lambda name: Outcome.UP_TO_DATE if name == "b" else Outcome.BUILT,
    )
    assert started == ["a", "b"], "b came out as it was, so c has nothing to look at"


def test_a_failure_takes_its_descendants_only() -> None:
    nodes = [node("a"), node("b"), node("under a", "a"), node("under b", "b"), node("both", "under a", "under b")]
    endings, started = play(nodes, lambda name: Outcome.FAILED if name == "a" else Outcome.BUILT)
    assert outcomes(endings) == {
        "a": "Failed",
        "b": "Built",
        "under a": "NotReady",
        "under b": "Built",
        "both": "NotReady",
    }
    assert "under a" not in started


def test_the_longest_chain_goes_first() -> None:
    nodes = [node("short"), node("long"), node("long 2", "long"), node("long 3", "long 2")]
    _, started = play(nodes, slots=Slots((), 1))
    assert started[0] == "long"


def family(*students: str) -> list[Node]:
    """A teacher's stages and those of its students, as the pipeline has them."""
    nodes = [node("base@t", gate=True), node("teacher", "base@t"), node("answers", "teacher"), node("rows")]
    for name in students:
        nodes += [node(f"base@{name}", "rows", gate=True), node(f"kd@{name}", f"base@{name}", "teacher")]
        nodes.append(node(f"results@{name}", f"kd@{name}", "answers", goal=True))
    return [*nodes, node("report", *(f"results@{name}" for name in students))]


def failing(name: str) -> Callable[[str], Outcome]:
    return lambda key: Outcome.FAILED if key == name else Outcome.BUILT


def test_a_base_that_fails_keeps_the_teacher_from_its_hours() -> None:
    endings, started = play(family("a"), failing("base@a"), Slots((), 1))
    assert started == ["base@t", "rows", "base@a"]
    assert outcomes(endings) == {
        **dict.fromkeys(("base@t", "rows"), "Built"),
        "base@a": "Failed",
        **dict.fromkeys(("teacher", "answers", "kd@a", "results@a", "report"), "NotReady"),
    }


def test_a_teacher_that_another_student_needs_goes_on() -> None:
    _, started = play(family("a", "b"), failing("base@a"))
    assert {"teacher", "answers", "kd@b", "results@b"} <= set(started)
    _, started = play(family("a", "b"), failing("kd@a"))
    assert {"teacher", "answers", "results@b"} <= set(started), "a method that fails ends what is below it only"


def test_a_running_stage_that_leads_nowhere_any_more_is_asked_to_end() -> None:
    dropped: list[tuple[str, str]] = []
    finishes: dict[str, Finish] = {}

    def start(begun: Node, _: Lease, finish: Finish) -> None:
        if begun.key == "teacher":
            finishes["teacher"] = finish
            return
        outcome = Outcome.FAILED if begun.key == "base@a" else Outcome.BUILT
        threading.Timer(0.2 if begun.key == "base@a" else 0.01, finish, (outcome, "")).start()

    def drop(running: Node, failed: Node) -> None:
        dropped.append((running.key, failed.key))
        finishes[running.key](Outcome.CANCELLED, "")

    endings = run_nodes(family("a"), Slots((), 2), start, lambda *_: None, lambda: False, drop=drop)
    assert dropped == [("teacher", "base@a")]
    assert outcomes(endings)["teacher"] == "Cancelled"
    assert outcomes(endings)["answers"] == "NotReady"


def test_nothing_starts_after_a_stop() -> None:
    stop = threading.Event()

    def ends(_: str) -> Outcome:
        stop.set()
        return Outcome.CANCELLED

    endings, started = play([node("a"), node("b", "a"), node("c")], ends, Slots((), 1), stop.is_set)
    assert len(started) == 1
    assert set(outcomes(endings).values()) == {"Cancelled"}


def test_a_claimed_stage_waits_while_others_go_on() -> None:
    refusals = iter([False, False, False])
    endings, started = play(
        [node("a"), node("b")], slots=Slots((), 1), claim=lambda n: n.key == "b" or next(refusals, True)
    )
    assert started == ["b", "a"]
    assert set(outcomes(endings).values()) == {"Built"}


def test_a_stage_that_wants_all_devices_is_not_starved(tmp_path: Path) -> None:
    order: list[str] = []
    slots = Slots(("0", "1"), 1, tmp_path)
    nodes = [node("one", gpus=1), node("all", gpus=2), *(node(f"small {i}", gpus=1) for i in range(4))]
    nodes.append(node("under all", "all"))  # so that `all` comes first among those that are ready
    _, order = play(nodes, slots=slots)
    assert order.index("all") <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_every_stage_ends_after_what_it_needs(seed: int, cpu_slots: int) -> None:
    draw = random.Random(seed)
    names = [f"s{i}" for i in range(draw.randint(1, 8))]
    nodes = []
    for place, name in enumerate(names):
        after = [other for other in names[:place] if draw.random() < 0.4]
        nodes.append(node(name, *after, changed=draw.random() < 0.7))
    fate = {name: draw.choice([Outcome.BUILT, Outcome.RESTORED, Outcome.UP_TO_DATE, Outcome.FAILED]) for name in names}
    endings, started = play(nodes, fate.__getitem__, Slots((), cpu_slots))
    order = list(endings)
    assert sorted(order) == sorted(names)
    for one in nodes:
        if one.key in started:
            assert all(order.index(key) < order.index(one.key) for key in one.after)
        broken = any(endings[key].outcome in {Outcome.FAILED, Outcome.NOT_READY} for key in one.after)
        assert (endings[one.key].outcome is Outcome.NOT_READY) == broken
