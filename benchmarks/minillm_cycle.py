"""What a MiniLLM cycle (rollouts and updates) costs beside a straightforward one with the reference's pass structure.

    python -m benchmarks.minillm_cycle [--repeats 3]

Both run the same workload (benchmarks/cycle_workload.py) with the same model code, one thread, in fresh processes that
take turns. CPU seconds are the medians; memory is the peak above what the process held once the models were loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import psutil

SIDES = ("ours", "reference")


def measure(side: str) -> dict[str, Any]:
    """One cycle in this process: CPU seconds, peak memory above the models' own in MiB, and the losses."""
    import torch

    from benchmarks.cycle_workload import END, Workload
    from benchmarks.reference_cycle import ReferenceCycle
    from distill.minillm.loop import Machine, MiniLLMRun, Task

    torch.set_num_threads(1)
    work = Workload()
    (student, teacher), prompts = work.models(), work.prompts()
    before, began = psutil.Process().memory_info().rss / 2**20, time.process_time()
    found: dict[str, Any] = {}
    if side == "reference":
        cycle = ReferenceCycle(student, teacher, prompts, work.settings(), work.response_tokens, END, work.seed)
        found["losses"] = cycle.train()
    else:
        task = Task(prompts, work.response_tokens, END)
        machine = Machine(micro_batch=8, decode_batch=64)
        run = MiniLLMRun(student, teacher, task, work.settings(), machine, work.seed, lambda _: {"rouge_l": 0.0})
        run.train()
        found["losses"] = [value for _, value in run.curves.points["loss"]]
        found["cost"] = run.ledger.summary()
    found["cpu_seconds"] = time.process_time() - began
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return found


def in_fresh_process(side: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.minillm_cycle", "--side", side]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Take turns, then print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="measure one cycle in this process and print it as JSON")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side)))
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(arguments.repeats):
        for side in SIDES:
            runs[side].append(in_fresh_process(side))
            shown = runs[side][-1]
            print(f"{number + 1} {side}: {shown['cpu_seconds']:.1f} CPU s, {shown['peak_mib']:.0f} MiB")
    print("\n| | CPU s a cycle | peak MiB above the models |\n|---|---|---|")
    middle = {s: {n: median(r[n] for r in runs[s]) for n in ("cpu_seconds", "peak_mib")} for s in SIDES}
    for side in SIDES:
        print(f"| {side} | {middle[side]['cpu_seconds']:.1f} | {middle[side]['peak_mib']:.0f} |")
    ratios = {n: middle["reference"][n] / middle["ours"][n] for n in ("cpu_seconds", "peak_mib")}
    print(f"| ratio | {ratios['cpu_seconds']:.1f} x | {ratios['peak_mib']:.1f} x |")
    gap = max(abs(a - b) for a, b in zip(runs["ours"][0]["losses"], runs["reference"][0]["losses"], strict=True))
    print(f"\nlargest difference between the losses of the two: {gap:.2g}")
    print(f"passes a rollout token, ours: {runs['ours'][0]['cost']['passes_per_rollout_token']}")


if __name__ == "__main__":
    main()
