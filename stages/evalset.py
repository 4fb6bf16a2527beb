"""Bring an evaluation set into the form that the later stages read.

Run: `python -m stages.evalset toy_id`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from distill.data.audit import legible
from distill.data.evalset import EvalSetSettings, as_examples, audit_evalset, read_evalset
from distill.data.screen import draw_evalset
from distill.project.errors import run_stage
from distill.project.files import write_json, write_jsonl
from distill.project.settings import lookup, parse, read_yaml
from distill.text.words import require_legible

PARAMS = Path("params.yaml")


def main() -> None:
    """Write evaluation/<set>.jsonl and evaluation/<set>.report.json."""
    parser = argparse.ArgumentParser(prog="python -m stages.evalset", description=__doc__.splitlines()[0])
    parser.add_argument("set")
    name = parser.parse_args().set
    path = Path(str(lookup(read_yaml(PARAMS), f"datasets.{name}", PARAMS)))
    description = Path(f"evalsets/{name}.yaml")
    settings = parse(read_yaml(description), EvalSetSettings, str(description))
    split = read_evalset(settings, path)
    warning = require_legible(
        f"the references of `{name}`",
        legible(split, settings.rouge),
        settings.rouge,
        f"`rouge: unicode` in {description}",
    )
    report = audit_evalset(name, settings, split)
    write_json(Path(f"evaluation/{name}.report.json"), report)
    write_jsonl(Path(f"evaluation/{name}.jsonl"), as_examples(split, settings.rouge))
    Console().print(draw_evalset(name, report))
    if warning:
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
