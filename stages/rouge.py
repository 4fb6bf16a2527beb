"""Score answers against references: Rouge-L, exact match, length, diversity.

python -m stages.rouge tiny minillm toy_id                          # a cell of the results table
python -m stages.rouge --answers a.jsonl --references r.jsonl       # any two files: `text` against `output`
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from distill.evaluation import answer_sheet
from distill.project.errors import run_stage
from distill.project.files import write_json
from distill.project.progress import Progress
from distill.scoring import scores, statistics
from distill.text.words import PAPER, Words, legibility, require_legible

_BAR_FROM_ANSWERS = 5_000  # fewer are done in about a second: a bar would only be noise


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.rouge", description=__doc__.splitlines()[0])
    parser.add_argument("cell", nargs="*", metavar="WHO WHAT SET", help="a cell of the table: student, method, set")
    parser.add_argument("--answers", type=Path, help="JSONL with `text` (and `id`, `seed` if you have them)")
    parser.add_argument("--references", type=Path, help="JSONL with `output`: a string or a list of strings")
    parser.add_argument("--json", type=Path, help="where to write the scores of a pair of files")
    parser.add_argument("--allow-empty", action="store_true", help="give empty answers 0 points")
    parser.add_argument("--words", choices=get_args(Words), default=PAPER, help="of a pair of files: of any script?")
    arguments = parser.parse_args()
    files = arguments.answers is not None and arguments.references is not None
    if (len(arguments.cell) == 3) == files or len(arguments.cell) not in (0, 3):
        parser.error("give either WHO WHAT SET, or both --answers and --references")
    return arguments


def _score(answers_path: Path, references_path: Path, allow_empty: bool, words: Words | None) -> dict[str, Any]:
    sheet = answer_sheet.read(answers_path, references_path, allow_empty)
    sheet = sheet if words is None else replace(sheet, words=words)
    remedy = "`--words unicode`" if words else f"`rouge: unicode` in evalsets/{references_path.stem}.yaml"
    if warning := require_legible(str(references_path), legibility(sheet.references, sheet.words), sheet.words, remedy):
        print(f"warning: {warning}", file=sys.stderr)
    count = len(sheet.ids) * len(sheet.seeds)
    if count < _BAR_FROM_ANSWERS:
        return scores.score_answers(sheet)
    with Progress("rouge", count, unit="answer") as bar:
        return scores.score_answers(sheet, advance=bar.advance)


def _report(score: dict[str, Any]) -> str:
    """The scores as a few lines for a person."""
    rouge, examples, seeds = score["rouge_l"], len(score["ids"]), len(score["seeds"])
    spread = f"  ± {rouge['std']:.4f}" if "std" in rouge else " "
    low, high = statistics.bootstrap_interval(score["per_example"], seed=0)
    # Four decimals, as in the logs that others publish, so that one can be held against the other.
    lines = [
        f"{'rouge_l':16}{rouge['mean']:10.4f}{spread} over {seeds} seed(s), {examples} examples;"
        f" 95 % interval {low:.4f} to {high:.4f}"
    ]
    if "words" in rouge:
        lines.append(f"{'words':16}{rouge['words']:>10}")
    if "unread" in rouge:
        unread = rouge["unread"]
        lines.append(
            f"{'unread':16}{unread['references']:,} of {unread['of_references']:,} references, "
            f"{unread['answers']:,} of {unread['of_answers']:,} answers"
        )
    others = ("exact_match", "response_tokens", "truncated", "distinct_4", "repeated_4")
    return "\n".join(lines + [f"{name:16}{score[name]['mean']:10.4f}" for name in others if name in score])


def main() -> None:
    """Score one cell into scores/, or a pair of files onto the screen and into --json."""
    arguments = _arguments()
    if arguments.cell:
        who, what, name = arguments.cell
        score = _score(Path(f"responses/{who}/{what}/{name}.jsonl"), Path(f"evaluation/{name}.jsonl"), True, None)
        write_json(Path(f"scores/{who}/{what}/{name}.json"), score)
        return
    score = _score(arguments.answers, arguments.references, arguments.allow_empty, arguments.words)
    if arguments.json:
        write_json(arguments.json, score)
    print(_report(score))


if __name__ == "__main__":
    run_stage(main)
