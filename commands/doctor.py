"""Check before you run: what will fail and how to fix it; for the rest, time and memory.

python -m commands.doctor                  # every student of params.yaml
python -m commands.doctor gpt2-base        # one of them
python -m commands.doctor --quick          # only what takes no time, and only what is wrong: before a rebuild
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from commands.check import check_profile
from commands.doctor_plan import Plan, StudentPlan, placement, plan_row
from commands.recipe import Profile
from distill.preflight.findings import Finding, gibibytes
from distill.preflight.machine import Machine, machine_findings, read_machine, version_findings
from distill.preflight.models import loading_findings, origin_findings
from distill.preflight.project import lock_findings, remote_finding, server_finding
from distill.project.errors import EXIT_BAD_INPUT, SettingsError, run_stage
from distill.project.table import PARAMS, Table, read_table
from distill.text.settings import PromptSettings

# A checkpoint lies in the workspace and in DVC's cache; an unfinished run keeps two states of weights and moments.
_COPIES = 2
_UNFINISHED = 2 * 4
# Which setting makes less of what there is most of.
_REMEDIES = {
    "activations": "lower hardware.micro_batch",
    "logits": "lower hardware.micro_batch",
    "key-value caches": "lower hardware.decode_batch",
    "teacher's hidden states": "set hardware.cache_teacher: false",
}


def main() -> None:
    """Print the findings; exit code 2 when one of them says stop."""
    parser = argparse.ArgumentParser(prog="python -m commands.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("student", nargs="?", help="one student of params.yaml (all)")
    parser.add_argument("--quick", action="store_true", help="no torch, no network, no calibration; faults only")
    arguments = parser.parse_args()
    table, root = read_table(), Path()
    if arguments.student not in (None, *table.students):
        known = ", ".join(table.students)
        raise SettingsError(f"`{arguments.student}` is no student of {PARAMS}; use one of: {known}")
    machine = read_machine(root)
    profiles = {family: check_profile(family) for family in table.families}
    chosen = [arguments.student] if arguments.student else list(table.students)
    device = "cuda" if machine.gpus else "cpu"
    rows = [
        plan_row(table, profiles[table.students[s].family], s, "cuda" if device == "cuda" else "cpu", len(machine.gpus))
        for s in chosen
    ]
    findings = [*version_findings(root / "constraints.txt"), *machine_findings(machine, _disk(rows))]
    findings += [remote_finding(root), *lock_findings(root)]
    if not arguments.quick:
        findings.append(server_finding(root, os.environ))
    for row in rows:
        findings += row_findings(table, profiles[table.students[row.student].family], row, machine, arguments.quick)
    if arguments.quick:
        findings = [finding for finding in findings if finding.level != "ok"]
    for finding in findings:
        print(finding)
    if not arguments.quick:
        _details(rows, profiles, table)
    if any(finding.level == "stop" for finding in findings):
        raise SystemExit(EXIT_BAD_INPUT)


def row_findings(table: Table, profile: Profile, row: StudentPlan, machine: Machine, quick: bool) -> list[Finding]:
    """What there is to say of one student."""
    unbuilt = [plan for plan in row.plans if not plan.built]
    found = []
    if unbuilt or not row.plans:
        found = origin_findings(row.origins, os.environ, ask=not quick)
    if not quick:
        from distill.preflight.tokenizers import tokenizer_finding

        recipe = profile.recipe
        models = {"teacher": recipe.teacher.origin, "student": recipe.students[row.student].origin}
        named = {who: model.source for who, model in models.items() if model is not None and model.source is not None}
        family = {} if recipe.tokenizer.source is None else {"family": recipe.tokenizer.source}
        found += loading_findings(named, os.environ)
        found.append(tokenizer_finding({**family, **named}, os.environ))
    found += length_findings(row, profile.recipe.prompt)
    found += memory_findings(row, machine)
    return [Finding(f.level, f"{row.student}, {f.subject}", f.text) for f in found]


def length_findings(row: StudentPlan, prompt: PromptSettings) -> list[Finding]:
    """The longest sequence against the positions of each model."""
    sampled, trained = prompt.max_prompt_tokens + prompt.max_response_tokens, prompt.max_sequence_tokens
    longest = prompt.longest_sequence
    names = "max_prompt_tokens or max_response_tokens" if longest == sampled else "max_sequence_tokens"
    found = []
    for role, origin in row.origins.items():
        if origin.shape is None or longest <= origin.shape.positions:
            continue
        text = f"{longest} tokens of prompt and response, and the {role} has {origin.shape.positions} positions"
        fix = f"lower prompt.{names} in the profile"
        # Learned positions end there; rotary ones only get worse.
        level = "stop" if origin.shape.kind in ("gpt2", "opt") else "warn"
        found.append(Finding("stop" if level == "stop" else "warn", "length", f"{text}; {fix}"))
    if found:
        return found
    known = f"; the data's longest are {row.lengths.longest_prompt} and {row.lengths.longest_response}"
    rows = "" if trained is None else f", rows of {trained},"
    limits = f"{prompt.max_prompt_tokens} + {prompt.max_response_tokens} tokens{rows} fit every model"
    return [Finding("ok", "length", limits + (known if row.lengths.known else ""))]


def memory_findings(row: StudentPlan, machine: Machine) -> list[Finding]:
    """The stage that takes most against the device it would run on, and the CPU's memory beside it."""
    plans = [plan for plan in row.plans if plan.memory is not None]
    if not plans:
        return [Finding("ok", "memory", "not estimated: the models' config.json is not here yet")]
    where = "GPU" if machine.gpus else "machine"
    most = max(plans, key=_peak)
    found = [_compared(most, _peak(most), machine.device_total, machine.device_free, where)]
    if machine.gpus:
        host = max(plans, key=_host_peak)
        found.append(_compared(host, _host_peak(host), machine.memory, machine.available, "CPU beside it"))
    return found


def _peak(plan: Plan) -> float:
    return plan.memory.peak if plan.memory else 0.0


def _host_peak(plan: Plan) -> float:
    return plan.memory.host_peak if plan.memory else 0.0


def _compared(plan: Plan, needed: float, total: int, free: int, where: str) -> Finding:
    text = f"{plan.name} needs about {gibibytes(needed)} at its peak, the {where} has {gibibytes(total)}"
    if needed <= free:
        return Finding("ok", "memory", text)
    if needed <= total:
        return Finding("warn", "memory", f"{text}, of which {gibibytes(free)} are free; end what else runs there")
    fix = "use a larger machine, or a smaller model"
    if plan.memory is not None:
        parts = plan.memory.device[plan.memory.moment]
        movable = {name: parts.get(name, 0.0) for name in _REMEDIES}
        largest = max(movable, key=lambda name: movable[name])
        # Where the weights alone are too much, no batch is small enough.
        if needed - sum(movable.values()) < total and movable[largest]:
            remedy = _REMEDIES["key-value caches"] if "validation" in plan.memory.moment else _REMEDIES[largest]
            fix = f"{gibibytes(movable[largest])} of it are {largest} ({plan.memory.moment}): {remedy}"
    # What is built already may be up to date: then nothing has to run here.
    return Finding("warn" if plan.built else "stop", "memory", f"{text}; {fix}")


def _disk(rows: Sequence[StudentPlan]) -> float:
    """Bytes that building everything which is not there will write."""
    plans = {plan.output: plan for row in rows for plan in row.plans if not plan.built}.values()
    return sum(_COPIES * plan.weights for plan in plans) + max((_UNFINISHED * p.weights for p in plans), default=0.0)


def _details(rows: Sequence[StudentPlan], profiles: dict[str, Profile], table: Table) -> None:
    """A line for each stage: steps, tokens, memory, time."""
    from distill.preflight.report import print_plans
    from distill.preflight.speeds import calibrate

    for row in rows:
        asked: set[str] = {plan.model for plan in row.plans}
        shapes = {who: o.shape for who, o in row.origins.items() if who in asked and o.shape is not None}
        if shapes:
            hardware = profiles[table.students[row.student].family].hardware
            place = placement(hardware, "cpu", 1)
            speeds = calibrate(shapes, row.lengths, place.micro_batch, place.decode_batch, hardware.threads)
            plans = [(p.name, p.model, p.work, p.memory) for p in row.plans]
            print_plans(row.student, plans, row.lengths.known, speeds)


if __name__ == "__main__":
    run_stage(main)
