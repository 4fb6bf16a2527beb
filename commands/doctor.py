"""Check before you run: what will fail and how to fix it; for the rest, time and memory.

python -m commands.doctor                  # every student of params.yaml
python -m commands.doctor gpt2-base        # one of them
python -m commands.doctor --quick          # only what takes no time, and only what is wrong: before a rebuild
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from commands.doctor_look import look_findings
from commands.doctor_outlook import Outlook, measured_here, outlook
from commands.doctor_plan import Plan, StudentPlan
from commands.recipe import Profile
from distill.preflight.findings import Finding, gibibytes
from distill.preflight.machine import Machine, machine_findings, read_machine, version_findings
from distill.preflight.models import loading_findings, origin_findings
from distill.preflight.project import lock_findings, remote_finding, server_finding
from distill.preflight.report import Line, duration, print_plans
from distill.preflight.schedule import SLOTS
from distill.preflight.surroundings import surroundings_findings
from distill.project.errors import EXIT_BAD_INPUT, SettingsError, run_stage
from distill.project.table import PARAMS, Table, read_table
from distill.text.settings import PromptSettings

_DAY = 86_400.0
# Stages of which there is one for each model or evaluation set.
_ALIKE = ("responses", "divergence", "calibration")
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
    parser.add_argument("--slots", type=int, default=SLOTS, help=f"stages that `make repro` builds at once ({SLOTS})")
    arguments = parser.parse_args()
    table, root = read_table(), Path()
    if arguments.student not in (None, *table.students):
        known = ", ".join(table.students)
        raise SettingsError(f"`{arguments.student}` is no student of {PARAMS}; use one of: {known}")
    machine = read_machine(root)
    chosen = [arguments.student] if arguments.student else list(table.students)
    found, findings = outlook(machine, chosen, count=not arguments.quick, slots=arguments.slots)
    findings = [
        *version_findings(root / "constraints.txt"),
        *surroundings_findings(root, os.environ),
        *machine_findings(machine, found.disk),
        remote_finding(root, os.environ),
        *lock_findings(root),
        *findings,
    ]
    if not arguments.quick:
        findings.append(server_finding(root, os.environ))
    for row in found.rows:
        profile = found.profiles[table.students[row.student].family]
        findings += row_findings(table, profile, row, machine, arguments.quick)
    findings += [*together_findings(found), *time_findings(found)]
    if arguments.quick:
        findings = [finding for finding in findings if finding.level != "ok"]
    for finding in findings:
        print(finding)
    if not arguments.quick:
        _details(found)
    if any(finding.level == "stop" for finding in findings):
        raise SystemExit(EXIT_BAD_INPUT)


def row_findings(table: Table, profile: Profile, row: StudentPlan, machine: Machine, quick: bool) -> list[Finding]:
    """What there is to say of one student."""
    unbuilt = [plan for plan in row.plans if not plan.built]
    found = []
    if unbuilt or not row.plans:
        found = origin_findings(row.origins, os.environ, ask=not quick)
    if not quick:
        from distill.preflight.tokenizers import chat_finding, tokenizer_finding

        recipe = profile.recipe
        models = {"teacher": recipe.teacher.origin, "student": recipe.students[row.student].origin}
        named = {who: model.source for who, model in models.items() if model is not None and model.source is not None}
        family = {} if recipe.tokenizer.source is None else {"family": recipe.tokenizer.source}
        found += loading_findings(named, os.environ)
        found.append(tokenizer_finding({**family, **named}, os.environ))
        found += chat_finding(recipe.prompt, recipe.tokenizer.source, os.environ)
        found += look_findings(table.students[row.student].family, row.student, models, row.origins)
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
    if all(origin.shape is None or origin.shape.exact for origin in row.origins.values()):
        return found
    # An estimate for an architecture that it does not know is no reason to build nothing.
    return [Finding("warn" if each.level == "stop" else each.level, each.subject, each.text) for each in found]


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


def together_findings(found: Outlook) -> list[Finding]:
    """The memory of the stages that `make repro` builds side by side, where it is more than one of them has."""
    stages, machine = found.heaviest(), found.machine
    if len(stages) < 2:
        return []
    needed = sum(stage.memory for stage in stages)
    names = " and ".join(stage.name for stage in stages)
    text = f"{names} run side by side and need about {gibibytes(needed)}, the machine has {gibibytes(machine.memory)}"
    if needed <= machine.available:
        return [Finding("ok", "memory together", text)]
    if needed <= machine.memory:
        free = f"of which {gibibytes(machine.available)} are free"
        return [
            Finding("warn", "memory together", f"{text}, {free}; end what else runs there, or `make repro SLOTS=1`")
        ]
    exact = all(origin.shape is None or origin.shape.exact for row in found.rows for origin in row.origins.values())
    fix = "build one at a time: `make repro SLOTS=1`"
    return [Finding("stop" if exact else "warn", "memory together", f"{text}; {fix}")]


def time_findings(found: Outlook) -> list[Finding]:
    """Stages that would take more than a day, at the prices of `found`."""
    long: dict[str, float] = {}
    for row in found.rows:
        for plan in row.plans:
            seconds = None if plan.built else found.seconds(row.student, plan)
            if seconds is not None and seconds > _DAY:
                long[plan.name] = seconds
    if not long:
        return []
    name = max(long, key=lambda each: long[each])
    others = f", {len(long) - 1} more stage(s) over a day" if len(long) > 1 else ""
    fix = "`make doctor` measures; lower rows, epochs, max_steps or samples_per_prompt in the profile, or use a GPU"
    text = f"{name} takes about {duration(long[name])} here, by a rough guess{others}; {fix}"
    return [Finding("warn", "time", text)]


def _details(found: Outlook) -> None:
    """A line for each stage: steps, tokens, memory, time; and what all of it takes."""
    found = measured_here(found, lambda text: print(text, file=sys.stderr))
    for row in found.rows:
        if not row.plans:
            continue
        lines: dict[str, Line] = {}
        for plan in row.plans:
            kind = plan.name.partition("@")[0]
            # Stages that measure are many and alike.
            name = kind if plan.weights == 0 and kind.endswith(_ALIKE) else plan.name
            line = Line(name, plan.work, plan.memory, found.seconds(row.student, plan))
            lines[name] = lines[name] + line if name in lines else line
        print_plans(row.student, list(lines.values()), row.lengths.known)
    if not found.known or not found.stages():
        print("In all: not known before the data's rows are; `dvc repro prepare` counts them.")
        return
    whole, rest = found.total(), found.total(unbuilt=True)
    left = f", {duration(rest)} of it still to do" if rest < 0.99 * whole else ""
    at_once = f", {found.lanes} stages at full speed side by side" if found.lanes > 1 else ""
    print(f"In all: `make repro` takes about {duration(whole)} here{at_once}{left}.")


if __name__ == "__main__":
    run_stage(main)
