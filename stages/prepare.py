"""Prepare a family's data: training and validation rows, corpus, tokenizer and an audit of them.

Run: `python -m stages.prepare toy`
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from distill.data.audit import recorded_legibility
from distill.data.prepare import prepare
from distill.data.screen import draw_preparation
from distill.data.settings import DataSettings
from distill.project.errors import run_stage
from distill.project.settings import lookup, read_yaml, section
from distill.text.settings import PromptSettings, TokenizerSettings
from distill.text.words import PAPER

PARAMS = Path("params.yaml")


def main() -> None:
    """Write data/<family>/."""
    parser = argparse.ArgumentParser(prog="python -m stages.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("family")
    family = parser.parse_args().family
    base = Path(str(lookup(read_yaml(PARAMS), f"families.{family}", PARAMS)))
    profile = Path(f"profiles/{family}.yaml")
    data = section(profile, "recipe.data", DataSettings)
    prompt = section(profile, "recipe.prompt", PromptSettings)
    tokens = section(profile, "recipe.tokenizer", TokenizerSettings)
    # A tokenizer with a length of its own would warn of a long text; the audit reports lengths better.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    target = Path("data") / family
    report = prepare(data, prompt, tokens, base, target)
    Console().print(draw_preparation(str(target), report))
    if (found := recorded_legibility(report["splits"]["valid"])).partly:
        chosen = "; checkpoints will be chosen by validation loss" if found.blind else ""
        remedy = f"; `recipe.data.rouge: unicode` in {profile} reads them" if data.rouge == PAPER else ""
        print(f"warning: the references of {target}/valid.parquet: {found}{chosen}{remedy}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
