"""A study: arms, the search for their learning rates, their further seeds, and a table, written after every run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.kept_runs import Arm, Job, Runs, measure, toy
from benchmarks.toy_runs import ToyOutcome
from benchmarks.workspace import ROOT
from distill.project.files import write_text


@dataclass(frozen=True)
class Study:
    """The arms, the files of their runs, and their table; paths are relative to the repository."""

    arms: Mapping[str, Arm]
    section: dict[str, Any]
    """The recipe's settings that the arms change."""
    kept: Path
    """The finished runs, one line each."""
    table: Path
    head: str
    row: Callable[[str, Runs], str | None]
    """An arm's line of the table; None before its rate is chosen."""
    others: Sequence[Path] = ()
    """More files of finished runs, to which none is added."""
    prepare: Callable[[Arm], None] = lambda _: None
    """Prepares an arm before its first run."""

    def runs(self, inputs: str | None) -> Runs:
        """The finished runs that follow from `inputs`; from those of the newest run if None."""
        others = [ROOT / path for path in self.others]
        return Runs(ROOT / self.kept, self.arms, self.section, inputs, others)

    def write_table(self, runs: Runs) -> None:
        """The table of all arms that have a rate."""
        rows = filter(None, (self.row(name, runs) for name in self.arms))
        lines = [self.head, "|---" * (self.head.count(" | ") + 1) + "|", *rows]
        write_text(ROOT / self.table, "\n".join(lines) + "\n")


def complete(
    pool: Executor,
    workers: int,
    runs: Runs,
    names: Sequence[str],
    count: int | None = None,
    after: Callable[[str], None] = lambda _: None,
) -> None:
    """Make the missing runs of the arms, `count` seeds of each at most; `after` is called with the arm of each run.

    The arms keep their order, but workers do not wait: while an arm needs an outcome to choose its next rate, idle
    workers begin the next arm.
    """
    pending: dict[Future[ToyOutcome], Job] = {}
    while True:
        for job in (job for name in names for job in runs.wanted(name, count)):
            if len(pending) < workers and job not in pending.values():
                name, rate, seed = job
                arm = runs.arms[name]
                pending[pool.submit(measure, runs.settings(name, rate), arm.start, seed, arm.prompts)] = job
        if not pending:
            return
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            name, rate, seed = pending.pop(future)
            runs.keep(name, rate, seed, future.result())
            after(name)


def main(study: Study, about: str) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--arms", nargs="*", choices=list(study.arms), default=list(study.arms), metavar="NAME")
    parser.add_argument("--seeds", type=int, help="how many seeds of each arm at most, for a first look")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one core")
    arguments = parser.parse_args()
    runs = study.runs(toy().inputs() if arguments.arms else None)
    for name in arguments.arms:
        study.prepare(study.arms[name])

    def after(name: str) -> None:
        study.write_table(runs)
        if not runs.wanted(name, arguments.seeds):
            print(study.row(name, runs), flush=True)

    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        complete(pool, arguments.workers, runs, arguments.arms, arguments.seeds, after)
    study.write_table(runs)
