"""Put results/ beside the paper's Table 1, with intervals and a verdict for each cell.

python -m commands.compare_paper                # every student of params.yaml
python -m commands.compare_paper gpt2-base --markdown
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill.project.errors import SettingsError, run_stage
from distill.project.table import PARAMS
from distill.scoring import paper, results, tables
from distill.scoring.stored import read_metrics

_WIDTH_IN_A_LOG = 160


def main() -> None:
    """Print a table for each student that the paper has too, and a line for each other."""
    parser = argparse.ArgumentParser(prog="python -m commands.compare_paper", description=__doc__.splitlines()[0])
    parser.add_argument("students", nargs="*", help="of those with results (all students of params.yaml)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    arguments = parser.parse_args()
    printed = paper.read_paper()
    for student in arguments.students or results.students(PARAMS):
        path = Path("results") / f"{student}.json"
        if student not in printed.students:
            if student not in (known := results.students(PARAMS)):
                names = ", ".join(dict.fromkeys([*known, *printed.students]))
                raise SettingsError(f"`{student}` is no student of {PARAMS} nor of the paper; use one of: {names}")
            print(f"{student}: no counterpart in the paper ({', '.join(printed.students)} have one).")
            continue
        if not path.is_file():
            raise SettingsError(f"{path} does not exist; build it with `make repro`, or name another student")
        table = paper.build(printed, student, read_metrics(path), results.labels_of(PARAMS, student))
        if table is None:
            shared = ", ".join(printed.sets)
            print(f"{student}: evaluated on none of the paper's sets; add some to datasets: {shared}.")
        elif arguments.markdown:
            print(tables.to_markdown(table))
        else:
            _print(table)


def _print(table: tables.ResultTable) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_A_LOG)
    console.print(tables.to_rich(table))
    for line in table.notes:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    run_stage(main)
