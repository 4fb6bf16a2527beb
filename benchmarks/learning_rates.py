"""Sweep the learning rate of each method on the toy profile, by best validation Rouge-L.

The learning rate moves results more than any method does, so no comparison is fair before this. Uses the finished
data, teacher, start and teacher responses of the working tree (`make repro` first), two runs at a time.

    python -m benchmarks.learning_rates [--methods sft kd ...]        writes docs/toy_learning_rates.md
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.workspace import ROOT, edit_yaml, run
from distill.project.files import write_text

STAGES = {
    "init": "sft",
    "sft": "sft",
    "kd": "kd",
    "seqkd": "seqkd",
    "seqkd_multi": "seqkd",
    "minillm": "minillm",
    "single_step": "minillm",
}
GRIDS = {"minillm": (1e-3, 2e-3, 4e-3, 8e-3), "single_step": (1e-3, 2e-3, 4e-3, 8e-3)}
SUPERVISED_GRID = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)


def best(path: Path, lowest: bool) -> float:
    """The best value of a curve file."""
    values = [float(line.split("\t")[1]) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return min(values) if lowest else max(values)


def measure(method: str, rate: float) -> tuple[float, float]:
    """(best validation Rouge-L, lowest validation loss) of one run in a scratch folder."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for folder in ("distill", "stages", "data"):
            (place / folder).symlink_to(ROOT / folder)
        for file in ("params.yaml", "profiles/toy.yaml"):
            (place / file).parent.mkdir(exist_ok=True)
            (place / file).write_bytes((ROOT / file).read_bytes())
        (place / "runs/tiny").mkdir(parents=True)
        (place / "runs/toy").symlink_to(ROOT / "runs/toy")
        for start in {"base", "init"} - {method}:
            (place / f"runs/tiny/{start}").symlink_to(ROOT / f"runs/tiny/{start}")
        edit_yaml(
            place / "profiles/toy.yaml",
            **{f"recipe.students.tiny.{method}.learning_rate": rate, "hardware.threads": 1},
        )
        run(place, f"stages.{STAGES[method]}", "tiny", method)
        curves = place / f"runs/tiny/{method}.curves"
        return best(curves / "valid_rouge_l.tsv", False), best(curves / "valid_loss.tsv", True)


def main() -> None:
    """Run the sweep and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=list(STAGES), default=list(STAGES))
    methods = parser.parse_args().methods
    cells = [(method, rate) for method in methods for rate in GRIDS.get(method, SUPERVISED_GRID)]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(cells, pool.map(lambda cell: measure(*cell), cells), strict=True))
    rates = sorted({rate for _, rate in cells})
    lines = [
        "| method | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "|---|" + "---|" * len(rates),
    ]
    for method in methods:
        shown = [f"{found[method, r][0]:.1f} ({found[method, r][1]:.2f})" if (method, r) in found else "" for r in rates]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    table = "\n".join(lines)
    print(table)
    write_text(
        ROOT / "docs/toy_learning_rates.md",
        "# Learning rates on the toy profile\n\nBest validation Rouge-L (lowest validation loss) of one run each, seed 0, "
        "by `python -m benchmarks.learning_rates`.\nThe profile ships the best of each row; `init` is chosen by loss.\n\n"
        f"{table}\n",
    )


if __name__ == "__main__":
    main()
