"""DVC stage: bring a labelled set (a few possible words as answer) into the form that the calibration stage reads.

python -m stages.labelled toy_whether
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from distill.evaluation.labelled import LabelSetSettings, read_labelled
from distill.project.errors import run_stage
from distill.project.files import write_jsonl
from distill.project.settings import lookup, parse, read_yaml

PARAMS = Path("params.yaml")


def main() -> None:
    """Write labelled/<set>.jsonl."""
    parser = argparse.ArgumentParser(prog="python -m stages.labelled", description=__doc__.splitlines()[0])
    parser.add_argument("set")
    name = parser.parse_args().set
    path = Path(str(lookup(read_yaml(PARAMS), f"calibration.{name}", PARAMS)))
    description = Path(f"labelsets/{name}.yaml")
    settings = parse(read_yaml(description), LabelSetSettings, str(description))
    rows = read_labelled(settings, path)
    write_jsonl(Path(f"labelled/{name}.jsonl"), rows)
    # By label: the words themselves may hold a name, and so differ in every row.
    labels = list(settings.words)
    counts = Counter(labels[row["answer"]] for row in rows)
    print(f"{name}: {len(rows)} rows, " + ", ".join(f"{counts[label]} {label}" for label in labels))


if __name__ == "__main__":
    run_stage(main)
