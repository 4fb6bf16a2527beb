"""The report of every student in params.yaml: one HTML page that opens offline, and its twin in Markdown.

python -m stages.report
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.project.errors import run_stage
from distill.project.files import write_text
from distill.scoring import page, plots, provenance, results, samples
from distill.scoring.stored import read_summary


def main() -> None:
    """Write results/report.html and results/report.md."""
    argparse.ArgumentParser(prog="python -m stages.report", description=__doc__.splitlines()[0]).parse_args()
    params, root = Path("params.yaml"), Path()
    experiments = [results.read_student(params, name) for name in results.students(params)]
    students = [
        page.student(
            experiment,
            read_summary(root / "analyses" / experiment.student / "summary.json"),
            plots.read_curves(experiment, root),
        )
        for experiment in experiments
    ]
    origin = provenance.read(root)
    answers = samples.collect(experiments, [student.roster for student in students], root)
    write_text(root / "results/report.html", page.render(students, answers, origin))
    write_text(root / "results/report.md", page.to_markdown(students, origin))


if __name__ == "__main__":
    run_stage(main)
