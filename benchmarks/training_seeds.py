"""The toy table over training seeds: the whole pipeline, from the teacher's random weights on, for each seed.

    python -m benchmarks.training_seeds [--seeds 0 1 2]        writes docs/toy_seeds.md

Each seed is built in a scratch copy, two at a time, and kept in .resume/; the shipped seed's results are the working
tree's own (`make repro`). ± is the standard deviation over training seeds; a difference of MiniLLM to another method,
paired by seed, is bold if it is more than twice its standard error.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.workspace import ROOT, clone, edit_yaml, run
from distill.project.files import read_json, write_json, write_text
from distill.project.table import read_table

STUDENT = "tiny"
METHOD = "minillm"
Results = dict[str, dict[str, Any]]


def build(seed: int) -> Results:
    """results/tiny.json of one training seed: the shipped one's is there, others are built once and kept."""
    shipped = seed == read_table(ROOT / "params.yaml").seed
    kept = ROOT / (f"results/{STUDENT}.json" if shipped else f".resume/training_seeds/{seed}.json")
    if kept.is_file():
        stored: Results = read_json(kept)
        return stored
    with tempfile.TemporaryDirectory() as name:
        place = clone(Path(name))
        edit_yaml(place / "params.yaml", seed=seed)
        edit_yaml(place / "profiles/toy.yaml", **{"hardware.threads": 1})
        run(place, "dvc", "repro", f"results@{STUDENT}")
        found: Results = read_json(place / f"results/{STUDENT}.json")
        write_json(kept, found)
        return found


def values(results: list[Results], model: str, column: str) -> list[float]:
    """One number a seed: Rouge-L on a set, or `reverse_kl`."""
    if column == "reverse_kl":
        return [r[model]["kl"]["reverse_kl"]["mean"] for r in results if "kl" in r[model]]
    return [r[model][column]["rouge_l"]["mean"] for r in results]


def spread(numbers: list[float], digits: int) -> str:
    """`mean ± std`; of one number the mean alone."""
    if not numbers:
        return ""
    middle = f"{mean(numbers):.{digits}f}"
    return f"{middle} ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else middle


def verdict(ours: list[float], theirs: list[float], digits: int) -> str:
    """`difference ± standard error`, in bold where it is more than twice that; of one seed the difference alone."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(differences) < 2:
        return f"{mean(differences):+.{digits}f}"
    error = stdev(differences) / math.sqrt(len(differences))
    text = f"{mean(differences):+.{digits}f} ± {error:.{digits}f}"
    return f"**{text}**" if abs(mean(differences)) > 2 * error else text


def table(results: list[Results], columns: list[str]) -> str:
    """The Markdown tables."""
    digits = {column: 2 if column == "reverse_kl" else 1 for column in columns}
    head = f"| model | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    rows = [
        f"| {model} | " + " | ".join(spread(values(results, model, c), digits[c]) for c in columns) + " |"
        for model in results[0]
    ]
    versus = []
    for model in (m for m in results[0] if m != METHOD):
        pairs = [(values(results, METHOD, c), values(results, model, c), digits[c]) for c in columns]
        shown = [verdict(ours, theirs, d) if theirs else "" for ours, theirs, d in pairs]
        versus.append(f"| {model} | " + " | ".join(shown) + " |")
    difference = head.replace("| model |", f"| {METHOD} minus |")
    return "\n".join([head, *rows]) + "\n\n" + "\n".join([difference, *versus])


def main() -> None:
    """Build every seed and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(build, seeds))
    columns = [*read_table(ROOT / "params.yaml").datasets, "reverse_kl"]
    found = table(results, columns)
    print(found)
    write_text(
        ROOT / "docs/toy_seeds.md",
        "# The toy profile over training seeds\n\n"
        "Rouge-L and reverse KL (nats a token): mean ± standard deviation over training seeds "
        f"{seeds},\neach the mean of five sampling seeds; by `python -m benchmarks.training_seeds`. A seed changes\n"
        f"everything: the teacher, the start, the order of rows, the rollouts.\n\n{found}\n\n"
        "The second table is MiniLLM minus the other model, paired by seed, ± the standard error of the mean\n"
        "difference; bold where it is more than twice that.\n",
    )


if __name__ == "__main__":
    main()
