"""`dvc repro` with independent stages side by side: same stages, same results, no server, half the time.

    python -m tasks.side_by_side [TARGET …] [--slots 2]

Each stale stage is one `dvc repro -s`, in dependency order; a failed one stops only what is below it. For schedules,
retries and a web page to watch, see flows/rebuild.py.
"""

from __future__ import annotations

import argparse
import errno
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tasks.errors import RebuildError
from tasks.graph import read_graph
from tasks.leases import Lease, Slots, visible_devices
from tasks.leftovers import clear_leftovers
from tasks.locks import hold_clone
from tasks.mappings import read_progress
from tasks.own_results import prefer_own_results
from tasks.processes import DVC, Command
from tasks.schedule import BROKEN, MOVED, Finish, Node, Outcome, nodes_of, run_nodes

# Lines of DVC and of the stages' own progress, which the bars replace.
_CHATTER = re.compile(
    r"^(Running stage|Updating lock|Generating lock|Use `dvc|To track|To enable|\s*(git|dvc) |> |Stage '|$)|: \d+/\d+ "
)


class Board:
    """Running stages as bars with the time left, and a line for each ended stage."""

    def __init__(self, total: int) -> None:
        """`total` stages are out of date now; rebuilding them may make more so."""
        columns = (
            TextColumn("{task.description:28}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(*columns, console=self.console, transient=True)
        self.total, self.done, self.lock = total, 0, threading.Lock()

    def begin(self, name: str) -> TaskID:
        """A bar for a stage that starts."""
        return self.bars.add_task(name, total=None, note="")

    def advance(self, bar: TaskID, name: str, began: float) -> None:
        """Draw the stage's own progress, if it has written any since `began`."""
        note = Path(".resume/progress") / f"{name}.json"
        if note.is_file() and note.stat().st_mtime >= began and (state := read_progress(note)):
            shown = " ".join(f"{key} {state[key]:.3g}" for key in ("loss", "valid_rouge_l") if key in state)
            self.bars.update(bar, total=state["steps"], completed=state["step"], note=shown)

    def end(self, bar: TaskID, name: str, outcome: Outcome, seconds: float, said: list[str]) -> None:
        """Replace the bar by a line, below the stage's own output."""
        with self.lock:
            self.done += 1
            self.bars.remove_task(bar)
            for line in said:
                self.console.print(line, markup=False, soft_wrap=True)
            self.console.print(f"[{self.done}/{self.total}] {name}: {outcome.lower()} in {seconds:.0f} s", markup=False)


def run(node: Node, lease: Lease, board: Board, stopped: Callable[[], bool], clone_lock: int) -> Outcome:
    """Bring one stage up to date and show it; end it once `stopped()`."""
    began, said = time.time(), []
    bar = board.begin(node.key)
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(lease.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command = Command([*DVC, "repro", "-s", node.key], Path.cwd(), devices, (clone_lock, *lease.descriptors))
    ran = restored = False
    for line in command.lines(every=0.5):
        if stopped():
            command.stop()
        board.advance(bar, node.key, began)
        if line is not None:
            ran |= line.startswith("Running stage '")
            restored |= "is cached - skipping run" in line
            said += [] if _CHATTER.search(line) else [line]
    if command.wait():
        outcome = Outcome.CANCELLED if stopped() else Outcome.FAILED
    else:
        outcome = Outcome.BUILT if ran else Outcome.RESTORED if restored else Outcome.UP_TO_DATE
    board.end(bar, node.key, outcome, time.time() - began, said)
    return outcome


def main() -> int:
    """Bring the clone in the current folder up to date; exit code 0 without a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="stages to build, with all they need; none means every stage")
    parser.add_argument("--slots", type=int, default=2, help="stages side by side (2)")
    arguments = parser.parse_args()
    root, stop = Path.cwd(), threading.Event()
    if not (root / "dvc.yaml").is_file():
        print(f"error: {root} holds no pipeline (no dvc.yaml); run this in the folder of the clone", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    with hold_clone(root, "none", say, stop.is_set) as clone:
        if clone is None:
            return 130
        try:
            for sentence in (*clear_leftovers(root), *prefer_own_results(root)):
                say(sentence)
            graph = read_graph(root, arguments.targets)
        except RebuildError as error:
            say(f"error: {error}")
            return 2
        board, descriptor = Board(len(graph.changed)), clone.descriptor
        dropped: set[str] = set()

        def drop(node: Node, failed: Node) -> None:
            dropped.add(node.key)
            board.console.print(
                f"{node.key} is stopped, and goes on when it is wanted: nothing that it leads to can be built without "
                f"{failed.key}",
                markup=False,
            )

        def start(node: Node, lease: Lease, finish: Finish) -> None:
            def work() -> None:
                def stopped() -> bool:
                    return stop.is_set() or node.key in dropped

                finish(run(node, lease, board, stopped, descriptor), "")

            threading.Thread(target=work).start()

        with board.bars:
            slots = Slots(visible_devices(), max(1, arguments.slots))
            endings = run_nodes(nodes_of(graph, str(root)), slots, start, lambda *_: None, stop.is_set, drop=drop)
    return summarise({name: ending.outcome for name, ending in endings.items()}, stop.is_set())


def summarise(outcomes: dict[str, Outcome], stopped: bool) -> int:
    """The last line, and the exit code."""
    broken = [name for name, outcome in outcomes.items() if outcome in BROKEN]
    failed = [name for name in broken if outcomes[name] is Outcome.FAILED]
    if stopped:
        print("interrupted: nothing half-written was kept; run the same command to continue", file=sys.stderr)
        return 130
    if failed:
        print(f"error: {', '.join(failed)} failed, see above; correct it and run the same command", file=sys.stderr)
        return 1
    moved = sum(outcome in MOVED for outcome in outcomes.values())
    print(f"{moved} stages brought up to date, {len(outcomes) - moved} were", file=sys.stderr)
    return 0


def guarded() -> int:
    """The same; a clone that may not be written is answered with a sentence and exit code 2."""
    try:
        return main()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        fix = "give this user the right to it, or work in a clone on a disk that can be written"
        print(f"error: {error.filename}: {error.strerror}; {fix}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(guarded())
