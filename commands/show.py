"""Show the results of every student in params.yaml, and where the report is.

python -m commands.show                    # for a terminal
python -m commands.show --markdown         # for a pull request
python -m commands.show --write-readme     # put the table into README.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill.project.errors import DataError, run_stage
from distill.project.files import write_text
from distill.scoring import results, tables

_WIDTH_IN_A_LOG = 140


def _write_readme(path: Path, content: str) -> None:
    if not path.exists():
        raise DataError(f"{path} does not exist; create it with the lines {tables.START_MARK} and {tables.END_MARK}")
    write_text(path, tables.replace_between_marks(path.read_text(encoding="utf-8"), content))


def main() -> None:
    """Print or write the tables of all students."""
    parser = argparse.ArgumentParser(prog="python -m commands.show", description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--write-readme", action="store_true", help="replace the table in README.md")
    parser.add_argument("--report", default="results/report.html", help="where the report is")
    arguments = parser.parse_args()
    drawn = {student: tables.read(student, Path()) for student in results.students(Path("params.yaml"))}
    markdown = "\n".join(tables.to_markdown(table) for table in drawn.values())
    if arguments.write_readme:
        _write_readme(Path("README.md"), markdown)
    elif arguments.markdown:
        print(markdown, end="")
    else:
        _print_for_a_terminal(drawn, Path(arguments.report))


def _print_for_a_terminal(drawn: dict[str, tables.ResultTable], report: Path) -> None:
    from rich.console import Console

    # rich takes 80 columns where there is no terminal, and would break the cells of a logged table
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_A_LOG)
    for table in drawn.values():
        console.print(tables.to_rich(table))
        for line in table.notes:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    if report.exists():
        console.print(f"Report: {report.resolve()}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    run_stage(main)
