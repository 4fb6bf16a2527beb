"""Gather a student's scores and analyses: metrics, verdicts and plot data into results/, all of it for the report.

python -m stages.results tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.project.errors import run_stage
from distill.project.files import write_json, write_text
from distill.project.settings import lookup, read_yaml
from distill.scoring import results


def main() -> None:
    """Write results/<student>.json, .significance.json and .csv, and analyses/<student>/summary.json."""
    parser = argparse.ArgumentParser(prog="python -m stages.results", description=__doc__.splitlines()[0])
    parser.add_argument("student")
    student = parser.parse_args().student
    experiment = results.read_student(Path("params.yaml"), student)
    scores, analyses = results.read_scores(experiment, Path()), results.read_analyses(experiment, Path())
    metrics = results.metrics(experiment, scores, analyses, Path())
    verdicts = results.significance(experiment, scores, analyses)
    profile = Path("profiles") / f"{experiment.family}.yaml"
    note = str(lookup(read_yaml(profile), "recipe", profile).get("note") or "").strip()
    folder = Path("results")
    write_json(folder / f"{student}.json", metrics)
    write_json(folder / f"{student}.significance.json", verdicts)
    write_text(folder / f"{student}.csv", results.plot_rows(experiment, metrics))
    summary = results.summary(metrics, verdicts, analyses, note)
    write_json(Path("analyses") / student / "summary.json", summary)


if __name__ == "__main__":
    run_stage(main)
