"""Draw a student's report: one HTML page that opens offline.

python -m stages.plots tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.project.errors import run_stage
from distill.project.files import read_json, write_text
from distill.scoring import page, plots, results, samples, tables


def main() -> None:
    """Write results/<student>.html."""
    parser = argparse.ArgumentParser(prog="python -m stages.plots", description=__doc__.splitlines()[0])
    parser.add_argument("student")
    student = parser.parse_args().student
    experiment = results.read_experiment(Path("params.yaml"), student)
    metrics = read_json(Path(f"results/{student}.json"))
    html = page.render(
        experiment,
        tables.read(student, Path()),
        plots.score_charts(experiment, metrics),
        plots.curve_charts(experiment, plots.read_curves(experiment, Path())),
        samples.choose(experiment, results.read_scores(experiment, Path()), Path()),
    )
    write_text(Path(f"results/{student}.html"), html)


if __name__ == "__main__":
    run_stage(main)
