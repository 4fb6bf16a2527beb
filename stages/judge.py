"""DVC stage: an LLM scores one model's answers to one evaluation set beside the references.

python -m stages.judge tiny minillm toy_id     # a cell of the results table
python -m stages.judge --dry-run               # what judging every model would take; needs no key
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from distill.judging.answers import lost_fault, to_buy
from distill.judging.budget import CostEstimate, estimate
from distill.judging.chat import ChatRequest
from distill.judging.pairs import JudgedPair, Order, read_pairs, requests_of, verdict_row
from distill.judging.prompt import read_template
from distill.judging.purchases import read_purchases
from distill.judging.scores import read_scores
from distill.judging.settings import JudgeSettings
from distill.judging.summary import shown, summarise, summary_path
from distill.project.errors import DistillError, SettingsError, run_stage
from distill.project.files import write_json, write_jsonl
from distill.project.randomness import key
from distill.project.settings import section
from distill.project.table import PARAMS, read_table
from stages.judge_client import get_answers

PURPOSE = "judge"


def main() -> None:
    """Write verdicts/<who>/<what>/<set>.jsonl and its summary among the scores, or print the dry run."""
    parser = argparse.ArgumentParser(prog="python -m stages.judge", description=__doc__.splitlines()[0])
    parser.add_argument("cell", nargs="*", metavar="WHO WHAT SET", help="a cell of the table: student, method, set")
    parser.add_argument("--dry-run", action="store_true", help="print calls, tokens and cost of all cells; buy nothing")
    arguments = parser.parse_args()
    if len(arguments.cell) != (0 if arguments.dry_run else 3):
        parser.error("give either WHO WHAT SET, or --dry-run")
    judge = section(PARAMS, "judge", JudgeSettings)
    if arguments.dry_run:
        _dry_run(judge)
        return
    if not judge.enabled:
        raise SettingsError(f"{PARAMS}: judge.enabled is false; set it to true to judge")
    who, what, name = arguments.cell
    _judge(judge, who, what, name)


def _judge(judge: JudgeSettings, who: str, what: str, name: str) -> None:
    """One cell; raises DistillError when the server cannot be used, or gave no reply to more than a few pairs."""
    pairs, requests = _read(judge, who, what, name)
    asked = [request for of_pair in requests for request in of_pair.values()]
    if judge.budget.dry_run:
        print(f"dry run: {who} {what} {name}: {_estimate(judge, asked)}")
    cell = f"verdicts@{who}-{what}-{name}"
    found = get_answers(PURPOSE, cell, asked, read_scores, judge.protocol, judge.budget, judge.server)
    rows = [verdict_row(pair, of_pair, found) for pair, of_pair in zip(pairs, requests, strict=True)]
    summary = summarise(rows, key(read_table().seed, "judge", who, what, name))
    write_jsonl(Path(f"verdicts/{who}/{what}/{name}.jsonl"), rows)
    write_json(summary_path(Path(), who, what, name), summary)
    _report(cell, rows, summary)
    # Written without a score, and not taken as done: DVC asks again when the server is in order.
    if lost := lost_fault(Counter(str(row["unjudged"]) for row in rows), len(rows)):
        raise DistillError(f"{cell}: {lost}")


def _report(cell: str, rows: list[dict[str, object]], summary: dict[str, object]) -> None:
    reasons = dict.fromkeys(str(row["unjudged"]) for row in rows if row["unjudged"] is not None)
    print(f"{cell}: {shown({'judge': summary})}")
    for reason in list(reasons)[:5]:
        print(f"  unjudged, {reason}")
    if any(reason.startswith("budget") for reason in reasons):
        print(f"  what is judged is kept: raise judge.budget in {PARAMS} and run again to go on from here")


def _read(
    judge: JudgeSettings, who: str, what: str, name: str
) -> tuple[list[JudgedPair], list[dict[Order, ChatRequest]]]:
    responses, evaluation = Path(f"responses/{who}/{what}/{name}.jsonl"), Path(f"evaluation/{name}.jsonl")
    template = read_template(Path(judge.protocol.prompt))
    pairs = read_pairs(responses, evaluation, judge.protocol)
    return pairs, [requests_of(pair, template, judge.protocol) for pair in pairs]


def _estimate(judge: JudgeSettings, requests: list[ChatRequest]) -> CostEstimate:
    """What those of the requests take that nothing kept answers."""
    return estimate(judge.budget, to_buy(requests, read_purchases(), read_scores, judge.protocol.attempts))


def _dry_run(judge: JudgeSettings) -> None:
    """Print what is still to be bought, cell by cell and in all."""
    table = read_table()
    cells = [(family, "teacher") for family in table.families]
    cells += [(student, method) for student in table.students for method in table.methods]
    wanted: list[ChatRequest] = []
    for who, what in cells:
        for name in judge.datasets or table.datasets:
            if not Path(f"responses/{who}/{what}/{name}.jsonl").is_file():
                print(f"{who} {what} {name}: no responses yet; run `dvc repro` first")
                continue
            of_pairs = _read(judge, who, what, name)[1]
            requests = [request for of_pair in of_pairs for request in of_pair.values()]
            print(f"{who} {what} {name}: {_estimate(judge, requests)}")
            wanted += requests
    print(f"in all: {_estimate(judge, wanted)}")


if __name__ == "__main__":
    run_stage(main)
