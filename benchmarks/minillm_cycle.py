"""The cost of a MiniLLM cycle (rollouts and updates), beside a plain implementation, its bare passes, and TRL.

    python -m benchmarks.minillm_cycle [--repeats 3]

All on one workload (benchmarks/cycle_workload.py), on one thread, in fresh processes that take turns: ours, the
baseline with the reference's pass structure (benchmarks/reference_cycle.py), TRL's on-policy distillation trainer if it
is installed, and decoding alone against transformers' `generate`. CPU seconds are medians; memory is the peak above the
loaded models.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.fresh_process import Meter, in_fresh_process

if TYPE_CHECKING:
    from benchmarks.cycle_workload import Workload

# Sequences a forward and backward pass of ours: activations of more outgrow a CPU's caches and allocator.
MICRO_BATCH, DECODE_BATCH = 4, 64


def measure(side: str, work: Workload, bare: bool, stock: bool) -> dict[str, Any]:
    """One cycle in this process: CPU seconds, peak memory above the models' own in MiB, and the losses.

    With `stock`, models and allocator are as their libraries give them; otherwise as our training stages set them.
    """
    import torch

    from benchmarks.bare_passes import bare_seconds
    from benchmarks.cycle_workload import END
    from benchmarks.reference_cycle import ReferenceCycle
    from distill.models.loading import fuse_activations
    from distill.objectives.minillm.objective import MiniLLM
    from distill.on_policy.loop import Execution, OnPolicyRun, Task
    from distill.on_policy.process_memory import keep_freed_memory

    torch.set_num_threads(1)
    (student, teacher), prompts = work.models(), work.prompts()
    if not stock:
        keep_freed_memory()
        for model in (student, teacher):
            fuse_activations(model)
    meter = Meter()
    if side == "reference":
        cycle = ReferenceCycle(student, teacher, prompts, work.settings(), work.response_tokens, END, work.seed)
        losses = cycle.train()
        whole, collect = meter.cpu_seconds(), cycle.collect_seconds
        return _found(whole, collect, len(losses), meter.peak_mib()) | {"losses": losses}
    task, machine = Task(prompts, work.response_tokens, END), Execution(MICRO_BATCH, DECODE_BATCH)
    run = OnPolicyRun(
        student, teacher, task, MiniLLM(), work.settings(), machine, work.seed, lambda _: {"rouge_l": 0.0}
    )
    run.train()
    whole, cost = meter.cpu_seconds(), run.ledger.summary()
    peak = meter.peak_mib(run.ledger.memory.highest()["peak_rss_mib"])
    found = _found(whole, whole - cost["update"]["cpu_seconds"], run.step, peak)
    found |= {"losses": [value for _, value in run.curves.points["loss"]], "cost": cost, "ledger": run.ledger.lines()}
    return found | ({"bare": bare_seconds(run)} if bare else {})


def _found(whole: float, collect: float, steps: int, peak: float) -> dict[str, Any]:
    update = whole - collect
    return {"collect": collect, "update": update, "cycle": whole, "step": update / steps, "peak_mib": peak}


def table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Medians of every side, and the ratios to ours with their range over the repeats, as Markdown."""
    names = ("collect", "update", "step", "cycle", "peak_mib")
    middle = {side: {n: median(run[n] for run in found) for n in names} for side, found in runs.items()}
    lines = ["| | collection, CPU s | updates, CPU s | an update | whole cycle, CPU s | peak MiB above the models |"]
    lines.append("|---|---|---|---|---|---|")
    for side, m in middle.items():
        shown = f"{m['collect']:.1f} | {m['update']:.1f} | {m['step']:.2f} | {m['cycle']:.1f} | {m['peak_mib']:.0f}"
        lines.append(f"| {side} | {shown} |")
    for side in [side for side in runs if side != "ours"]:
        shown = " | ".join(f"{middle[side][n] / middle['ours'][n]:.1f}×" for n in names)
        lines.append(f"| {side} / ours | {shown} |")
    return lines


def verdicts(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The claims about our cycle, a line each with its number."""
    ours, reference = runs["ours"], runs["reference"]
    ratios = [b["cycle"] / a["cycle"] for a, b in zip(ours, reference, strict=True)]
    # A cycle is collection and updates; a run is made, and its first rollouts are checked, once.
    cycles = [sum(run["cost"][phase]["cpu_seconds"] for phase in run["bare"]) for run in ours]
    overheads = [cycle / sum(run["bare"].values()) for cycle, run in zip(cycles, ours, strict=True)]
    with_once = [run["cycle"] / sum(run["bare"].values()) for run in ours]
    bare = {phase: median(run["bare"][phase] for run in ours) for phase in ("collect", "update")}
    gap = max(abs(a - b) for a, b in zip(ours[0]["losses"], reference[0]["losses"], strict=True))
    passes = ours[0]["cost"]["passes_per_rollout_token"]
    return [
        f"CPU time, reference / ours: {median(ratios):.1f}× ({min(ratios):.1f}–{max(ratios):.1f})",
        f"peak memory above the models, ours / reference: "
        f"{median(run['peak_mib'] for run in ours) / median(run['peak_mib'] for run in reference):.2f}",
        f"cycle / its bare passes: {median(overheads):.2f} ({min(overheads):.2f}–{max(overheads):.2f}), "
        f"with what a run does once {median(with_once):.2f} ({min(with_once):.2f}–{max(with_once):.2f}); "
        f"bare: decode {bare['collect']:.1f}, forward and backward {bare['update']:.1f} CPU s",
        f"largest difference between the losses of the two: {gap:.2g} (ours are kept to 6 digits)",
        f"passes a rollout token: {', '.join(f'{name} {value:g}' for name, value in passes.items())}",
    ]


def decode_table(decodes: list[dict[str, dict[str, float]]]) -> list[str]:
    """Decoding alone (alpha 0), ours against `generate`, as Markdown; their draws differ, so costs are by the token."""
    lines = [
        "| decode alone | ours, CPU ms a response token | `generate` | ratio | tokens drawn |",
        "|---|---|---|---|---|",
    ]
    for model in ("student", "teacher"):
        cost, tokens = {}, {}
        for side in ("ours", "generate"):
            found = [decode[f"{side}, {model}"] for decode in decodes]
            tokens[side] = sum(run["tokens"] for run in found)
            cost[side] = 1000 * sum(run["cpu_seconds"] for run in found) / tokens[side]
        drawn = f"{tokens['ours']:.0f} and {tokens['generate']:.0f}"
        ratio = cost["generate"] / cost["ours"]
        lines.append(f"| {model} | {cost['ours']:.2f} | {cost['generate']:.2f} | {ratio:.1f}× | {drawn} |")
    return lines


def main() -> None:
    """Take turns, then print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="file of measurements, each written when done; go on from it")
    parser.add_argument("--side", choices=("ours", "reference"), help="measure in this process and print JSON")
    parser.add_argument("--rollouts", type=int, default=64, help="with --side")
    parser.add_argument("--response-tokens", type=int, default=128, help="with --side: the limit")
    parser.add_argument("--bare", action="store_true", help="with --side ours: its bare passes too")
    parser.add_argument("--small", action="store_true", help="with --side: smaller models")
    parser.add_argument("--stock", action="store_true", help="with --side: no fused activations, glibc as it is")
    arguments = parser.parse_args()
    if arguments.side:
        from benchmarks.cycle_workload import SMALL_MODELS, Workload

        models = SMALL_MODELS if arguments.small else {}
        work = Workload(rollouts=arguments.rollouts, response_tokens=arguments.response_tokens, **models)
        print(json.dumps(measure(arguments.side, work, arguments.bare, arguments.stock)))
        return
    commands = {
        "ours": ("benchmarks.minillm_cycle", "--side", "ours", "--bare"),
        "reference": ("benchmarks.minillm_cycle", "--side", "reference", "--stock"),
        "TRL": ("benchmarks.trl_cycle",),
        "decode": ("benchmarks.evaluation_decode",),
    }
    if not importlib.util.find_spec("trl"):
        del commands["TRL"]
        print("TRL is not installed and left out; `.venv/bin/pip install trl -c constraints.txt` brings it")
    runs = take_turns(commands, arguments.repeats, arguments.keep)
    decodes = runs.pop("decode")
    print("", *table(runs), "", *verdicts(runs), sep="\n")
    print("", *decode_table(decodes), "", "The cost ledger of our first cycle:", *runs["ours"][0]["ledger"], sep="\n")


def take_turns(
    commands: dict[str, tuple[str, ...]], repeats: int, keep: Path | None
) -> dict[str, list[dict[str, Any]]]:
    """The measurements of each command in each repeat; those in the file `keep` are not repeated."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
    if keep is not None and keep.exists():
        for line in keep.read_text(encoding="utf-8").splitlines():
            side, found = json.loads(line)
            runs.setdefault(side, []).append(found)
    for number in range(repeats):
        for side, command in commands.items():
            if len(runs[side]) > number:
                continue
            found = in_fresh_process(*command, *((str(number),) if side == "decode" else ()))
            runs[side].append(found)
            if keep is not None:
                with keep.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps([side, found]) + "\n")
            shown = f": {found['cycle']:.1f} CPU s, {found['peak_mib']:.0f} MiB" if "cycle" in found else " alone: done"
            print(f"{number + 1} {side}{shown}", flush=True)
    return {side: runs[side] for side in commands}


if __name__ == "__main__":
    main()
