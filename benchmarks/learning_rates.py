"""Sweep the learning rate of each method on the toy profile, by best validation Rouge-L.

The learning rate moves results more than any method does, so sweep it before comparing methods. Each method's rate is
climbed from the profile's by factors of two, until both neighbours of the best are worse. Uses the finished data,
teacher, start and teacher responses of the working tree (`make repro` first).

    python -m benchmarks.learning_rates [--methods sft kd ...] [--workers 2]

It writes docs/toy_learning_rates.md and keeps every run in docs/toy_learning_rates.json, with the section of the
profile it had: a run is repeated only if that section has changed.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.workspace import ROOT, curve, run, toy_run_place
from commands.methods import START, read_methods
from distill.project.files import read_json, write_json, write_text

# Not in the profile: does MiniLLM's compute help the baseline that comes closest to it?
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"kd, twice the epochs": ("kd", {"epochs": 120})}
KNOWN = read_methods(ROOT / "dvc.yaml")
"""Every method of dvc.yaml: the profile must have a section for those that are swept."""
STORE = ROOT / "docs/toy_learning_rates.json"
HEAD = """# Learning rates on the toy profile

Best validation Rouge-L (lowest validation loss) of one run each, seed 0, by `python -m benchmarks.learning_rates`. A
rate is climbed by factors of two until both neighbours of the best are worse; the best of each row is bold. MiniLLM's
start, `init`, keeps 2e-3: it is chosen by loss, and SFT's lowest loss is there.

An empty cell was not run in this climb. The rates missing for `sft`, `seqkd` and `single_step` were last swept on
another machine, and chose the shipped rates too: 36.3, 42.5 and 42.1 for `sft` at 2e-3, 4e-3 and 8e-3; 34.9, 38.6 and
37.9 for `seqkd`; 45.5, 52.5 and 47.6 for `single_step`.
"""

Found = dict[str, dict[str, Any]]


def swept() -> list[str]:
    """The methods that the toy profile has a section for, each followed by its variants."""
    written = YAML(typ="safe").load(ROOT / "profiles/toy.yaml")["recipe"]["students"]["tiny"]
    of = {name: [variant for variant, (base, _) in VARIANTS.items() if base == name] for name in KNOWN}
    return [each for name in KNOWN if name in written and name != START for each in (name, *of[name])]


def section(method: str) -> dict[str, Any]:
    """A method's section of the profile, with a variant's changes and without the learning rate."""
    name, changes = VARIANTS.get(method, (method, {}))
    profile = YAML(typ="safe").load(ROOT / "profiles/toy.yaml")
    return {**profile["recipe"]["students"]["tiny"][name], **changes, "learning_rate": None}


def shipped_rate(method: str) -> float:
    """The learning rate in the profile."""
    name = VARIANTS.get(method, (method, {}))[0]
    profile = YAML(typ="safe").load(ROOT / "profiles/toy.yaml")
    return float(profile["recipe"]["students"]["tiny"][name]["learning_rate"])


def measure(method: str, rate: float) -> dict[str, Any]:
    """Best validation Rouge-L and lowest validation loss of one run in a scratch folder."""
    name, changes = VARIANTS.get(method, (method, {}))
    with tempfile.TemporaryDirectory() as folder:
        place = toy_run_place(Path(folder), name, {**changes, "learning_rate": rate})
        run(place, *KNOWN[name].command("tiny"))
        rouge, loss = (curve(place, name, f"valid_{what}") for what in ("rouge_l", "loss"))
        return {"rouge_l": max(rouge), "loss": min(loss), "section": section(method)}


def of_method(found: Found, method: str) -> dict[float, float]:
    """Best validation Rouge-L by rate, of the runs that had today's section of the profile."""
    wanted = section(method)
    return {
        float(key.rpartition(" ")[2]): run["rouge_l"]
        for key, run in found.items()
        if key.rpartition(" ")[0] == method and run["section"] == wanted
    }


def missing(found: Found, method: str) -> list[float]:
    """The rates still to be tried: the shipped one, then the neighbours of the best so far."""
    tried = of_method(found, method)
    best = max(tried, key=lambda rate: tried[rate]) if tried else shipped_rate(method)
    return [rate for rate in (best, best / 2, best * 2) if rate not in tried]


def draw(found: Found) -> str:
    """The table of the runs that had today's profile."""
    rows = {method: tried for method in swept() if (tried := of_method(found, method))}
    rates = sorted({rate for tried in rows.values() for rate in tried})
    lines = [f"| method | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---|" + "---|" * len(rates)]
    for method, tried in rows.items():
        best = max(tried, key=lambda rate: tried[rate])
        cells = []
        for rate in rates:
            shown = f"{tried[rate]:.1f} ({found[f'{method} {rate:g}']['loss']:.2f})" if rate in tried else ""
            cells.append(f"**{shown}**" if rate == best else shown)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Climb each method's rate and write the table after each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=swept(), default=swept())
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one core")
    arguments = parser.parse_args()
    found: Found = read_json(STORE) if STORE.is_file() else {}
    with ThreadPoolExecutor(arguments.workers) as pool:
        for method in arguments.methods:
            while rates := missing(found, method):
                measured = pool.map(lambda rate, method=method: measure(method, rate), rates)
                for rate, outcome in zip(rates, measured, strict=True):
                    found[f"{method} {rate:g}"] = outcome
                    write_json(STORE, found)
                write_text(ROOT / "docs/toy_learning_rates.md", f"{HEAD}\n{draw(found)}\n")
    print(draw(found))


if __name__ == "__main__":
    main()
