"""The growth of a MiniLLM cycle's cost with the response limit and the number of rollouts.

    python -m benchmarks.growth [--small]

The workload of `make bench` (benchmarks/cycle_workload.py), one number of it changed at a time, each cycle once in a
fresh process: about 10 CPU minutes, or 2 with smaller models.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.cycle_workload import Workload
from benchmarks.fresh_process import in_fresh_process

RESPONSE_TOKENS = (64, 128, 256, 512)
ROLLOUTS = (64, 256, 1024)


def rows() -> list[tuple[int, int]]:
    """(rollouts, response limit) of every cycle measured."""
    usual = Workload()
    limits = [(usual.rollouts, limit) for limit in RESPONSE_TOKENS]
    return limits + [(count, usual.response_tokens) for count in ROLLOUTS if count != usual.rollouts]


def line(rollouts: int, limit: int, found: dict[str, Any]) -> str:
    """One row of the table, Markdown."""
    tokens = found["cost"]["collect"]["tokens"]
    each = [1000 * found[phase] / tokens for phase in ("collect", "update", "cycle")]
    shown = " | ".join(f"{value:.2f}" for value in each)
    fills = " | ".join(f"{found['cost'][p][n]:.0%}" for p, n in (("collect", "rows"), ("update", "fill")))
    return f"| {rollouts} | {limit} | {tokens} | {found['cycle']:.1f} | {shown} | {fills} | {found['peak_mib']:.0f} |"


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the models of `cycle_workload.SMALL_MODELS`")
    small = ("--small",) if parser.parse_args().small else ()
    print(
        "| rollouts | limit | response tokens | CPU s a cycle | ms a token: collection | updates | both "
        "| rows of the decode in use | fill of the updates | peak MiB above the models |"
    )
    print("|" + "---|" * 10)
    for rollouts, limit in rows():
        arguments = ("--side", "ours", "--rollouts", str(rollouts), "--response-tokens", str(limit), *small)
        print(line(rollouts, limit, in_fresh_process("benchmarks.minillm_cycle", *arguments)), flush=True)


if __name__ == "__main__":
    main()
