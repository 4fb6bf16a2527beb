"""Gather a student's scores and measures: intervals, comparisons, metrics and plot data; no model is needed.

python -m stages.results tiny
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.analyses.gathering import analyse
from distill.evaluation.guessing import stored_look
from distill.project.errors import run_stage
from distill.project.files import fresh_dir, write_json, write_text
from distill.project.settings import lookup, read_yaml
from distill.scoring import results


def main() -> None:
    """Write results/<student>.json, .significance.json, .models.json and .csv; and analyses/<student>/."""
    parser = argparse.ArgumentParser(prog="python -m stages.results", description=__doc__.splitlines()[0])
    parser.add_argument("student")
    student = parser.parse_args().student
    experiment = results.read_student(Path("params.yaml"), student)
    scores = results.read_scores(experiment, Path())
    analyses = analyse(experiment, scores, Path())
    metrics = results.metrics(experiment, scores, analyses, Path())
    verdicts = results.significance(experiment, scores, analyses)
    profile = Path("profiles") / f"{experiment.family}.yaml"
    note = str(lookup(read_yaml(profile), "recipe", profile).get("note") or "").strip()
    folder = Path("results")
    write_json(folder / f"{student}.json", metrics)
    write_json(folder / f"{student}.significance.json", results.of_reference_method(verdicts))
    write_text(folder / f"{student}.csv", results.plot_rows(experiment, metrics))
    drawn = Path("analyses") / student
    models = results.described(experiment, Path())
    write_json(folder / f"{student}.models.json", models)
    write_json(drawn / "summary.json", results.summary(metrics, verdicts, analyses, models, note, _doubts(student)))
    write_curves(drawn, analyses)


def _doubts(student: str) -> list[str]:
    """What the look at the student's start says against it."""
    look = stored_look(student, Path())
    doubt = None if look is None else look.doubt()
    return [] if doubt is None else [f"{student} began from a model that is {doubt}."]


def write_curves(folder: Path, analyses: results.Analyses) -> None:
    """Write what DVC draws: excess error by length, reliability by confidence, Rouge-L by reference length."""
    _write_tables(
        folder / "exposure",
        "length\terror",
        {
            method: enumerate(found["curve"]["error"], start=1)
            for method, found in analyses["exposure"]["models"].items()
        },
    )
    _write_tables(
        folder / "reliability",
        "confidence\taccuracy",
        {
            f"{name}.{model}": [(each["confidence"], each["accuracy"]) for each in found["reliability"]]
            for name, content in analyses["calibration"].items()
            for model, found in content["models"].items()
        },
    )
    _write_tables(
        folder / "lengths",
        "reference_tokens\trouge_l",
        {
            f"{name}.{model}": [(bucket, entry["mean"]) for bucket, entry in found["rouge_l"].items()]
            for name, content in analyses["lengths"].items()
            for model, found in content["models"].items()
        },
    )


def _write_tables(folder: Path, header: str, tables: dict[str, Iterable[tuple[Any, Any]]]) -> None:
    with fresh_dir(folder) as aside:
        for name, points in tables.items():
            lines = [header, *(f"{x}\t{y}" for x, y in points)]
            write_text(aside / f"{name}.tsv", "\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(main)
