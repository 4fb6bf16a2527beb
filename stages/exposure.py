"""DVC stage: exposure bias of every method's student, from the traces of the divergence stage.

python -m stages.exposure <student>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation.exposure import exposure
from distill.evaluation.traces import read_traces
from distill.project.errors import run_stage
from distill.project.files import fresh_dir, write_json, write_text
from distill.project.table import read_table


def main() -> None:
    """Write analyses/<student>/exposure.json, and a curve for each method that DVC draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    folder = Path("analyses") / parser.parse_args().student
    found = exposure(read_traces(folder / "traces.parquet"), read_table().seed)
    with fresh_dir(folder / "exposure") as aside:
        for method, summary in found["models"].items():
            errors = summary["curve"]["error"]
            lines = ["length\terror", *(f"{length}\t{error}" for length, error in enumerate(errors, start=1))]
            write_text(aside / f"{method}.tsv", "\n".join(lines) + "\n")
    write_json(folder / "exposure.json", found)


if __name__ == "__main__":
    run_stage(main)
