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

from benchmarks.workspace import ROOT, curve, run, toy_run_place
from distill.project.files import read_json, write_json, write_text

STAGES = {
    "init": "sft",
    "sft": "sft",
    "kd": "kd",
    "seqkd": "seqkd",
    "seqkd_multi": "seqkd",
    "minillm": "minillm",
    "single_step": "minillm",
}
HEAD = """# Learning rates on the toy profile

Best validation Rouge-L (lowest validation loss) of one run each, seed 0, by `python -m benchmarks.learning_rates`. The
profile ships the best of each row. `seqkd_multi` was swept at 10 epochs (it ships 14) and its best is the largest rate
tried. MiniLLM's start, `init`, keeps 2e-3: it is chosen by loss, and SFT's lowest loss is there.
"""
GRID = (1e-3, 2e-3, 4e-3, 8e-3)


def measure(method: str, rate: float) -> tuple[float, float]:
    """(best validation Rouge-L, lowest validation loss) of one run in a scratch folder."""
    with tempfile.TemporaryDirectory() as name:
        place = toy_run_place(Path(name), method, {"learning_rate": rate})
        run(place, f"stages.{STAGES[method]}", "tiny", method)
        return max(curve(place, method, "valid_rouge_l")), min(curve(place, method, "valid_loss"))


def draw(found: dict[str, list[float]]) -> str:
    """The table of all runs made so far, keyed `method rate`."""
    rates = sorted({float(cell.split()[1]) for cell in found})
    lines = [f"| method | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---|" + "---|" * len(rates)]
    for method in STAGES:
        row = [found.get(f"{method} {rate:g}") for rate in rates]
        if any(row):
            lines.append(f"| {method} | " + " | ".join(f"{c[0]:.1f} ({c[1]:.2f})" if c else "" for c in row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the sweep and write the table; finished runs are kept in .resume/ and not made again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--rates", nargs="+", type=float, default=GRID)
    arguments = parser.parse_args()
    store = ROOT / ".resume/learning_rates.json"
    found: dict[str, list[float]] = read_json(store) if store.is_file() else {}
    cells = [(m, r) for m in arguments.methods for r in arguments.rates if f"{m} {r:g}" not in found]
    with ThreadPoolExecutor(2) as pool:
        for (method, rate), scores in zip(cells, pool.map(lambda cell: measure(*cell), cells), strict=True):
            found[f"{method} {rate:g}"] = list(scores)
            write_json(store, found)
    table = draw(found)
    print(table)
    write_text(ROOT / "docs/toy_learning_rates.md", f"{HEAD}\n{table}\n")


if __name__ == "__main__":
    main()
