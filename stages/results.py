"""Gather a student's scores into results/: metrics, verdicts and plot data.

python -m stages.results tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.project.errors import run_stage
from distill.project.files import write_json, write_text
from distill.scoring import results


def main() -> None:
    """Write results/<student>.json, .significance.json and .csv."""
    parser = argparse.ArgumentParser(prog="python -m stages.results", description=__doc__.splitlines()[0])
    parser.add_argument("student")
    student = parser.parse_args().student
    experiment = results.read_experiment(Path("params.yaml"), student)
    scores = results.read_scores(experiment, Path())
    metrics = results.metrics(experiment, scores, Path())
    folder = Path("results")
    write_json(folder / f"{student}.json", metrics)
    write_json(folder / f"{student}.significance.json", results.significance(experiment, scores))
    write_text(folder / f"{student}.csv", results.plot_rows(experiment, metrics))


if __name__ == "__main__":
    run_stage(main)
