"""Type a prompt and see the teacher and every student answer it side by side.

python -m commands.chat tiny                     # ctrl-D or ctrl-C ends it
echo "What is a quince?" | python -m commands.chat tiny
python -m commands.chat tiny --temperature 0.3 --models teacher minillm
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distill.project.errors import SettingsError, Terminated, run_stage
from distill.project.files import read_json
from distill.project.randomness import key
from distill.project.settings import parse
from distill.project.table import PARAMS, read_table
from distill.scoring import results
from distill.scoring.names import TEACHER, label

if TYPE_CHECKING:
    from rich.console import Console


_WIDTH_IN_A_LOG = 140
_NARROWEST = 36


def main() -> None:
    """Read questions until there are none left."""
    parser = argparse.ArgumentParser(prog="python -m commands.chat", description=__doc__.splitlines()[0])
    parser.add_argument("student", nargs="?", help="of params.yaml (its first)")
    parser.add_argument("--models", nargs="+", help="of the teacher and the methods, those to ask (all that are built)")
    parser.add_argument("--temperature", type=float, help="in place of the evaluation's")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other answers")
    arguments = parser.parse_args()
    table = read_table()
    arguments.student = arguments.student or next(iter(table.students))
    if arguments.student not in table.students:
        known = ", ".join(table.students)
        raise SettingsError(f"`{arguments.student}` is no student of {PARAMS}; use one of: {known}")
    family = table.students[arguments.student].family
    folders = {TEACHER: Path("runs") / family / TEACHER}
    folders |= {method: Path("runs") / arguments.student / method for method in table.methods}
    if unknown := sorted(set(arguments.models or ()) - set(folders)):
        raise SettingsError(f"`{unknown[0]}` is none of the models: {', '.join(folders)}; correct --models")
    wanted = {name: folder for name, folder in folders.items() if name in (arguments.models or folders)}
    built = {name: folder for name, folder in wanted.items() if (folder / "meta.json").is_file()}
    if not built:
        raise SettingsError(f"no model of `{arguments.student}` is built; run `make repro` first")
    try:
        _talk(arguments.student, built, [name for name in wanted if name not in built], arguments)
    except (KeyboardInterrupt, Terminated):
        print()  # a person leaves as they like: nothing was interrupted


def _talk(student: str, folders: dict[str, Path], absent: list[str], arguments: argparse.Namespace) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_A_LOG, highlight=False, markup=False)
    console.print(f"Loading {len(folders)} models of {student} …")
    if absent:
        console.print(f"Not built yet, so not asked: {', '.join(absent)}.")
    from distill.sharing.speaker import load_speaker
    from stages.experiment import read_experiment

    experiment = read_experiment(student, TEACHER)
    sampling = experiment.evaluation.sampling
    if arguments.temperature is not None:
        sampling = parse({**sampling.model_dump(), "temperature": arguments.temperature}, type(sampling), "the command")
    speakers = {name: load_speaker(folder, experiment.dtype) for name, folder in folders.items()}
    known = results.labels_of(PARAMS, student)
    labels = {name: known.get(name) or label(name, read_json(path / "meta.json")) for name, path in folders.items()}
    decoding = ", ".join(f"{name} {value:g}" for name, value in sampling.model_dump().items())
    console.print(f"All answer with the same decoding ({decoding}) and the same random numbers. Ctrl-D ends.")
    for number, (instruction, given) in enumerate(_questions(console)):
        draw = key(arguments.seed, "chat", number)
        answers = {n: speaker.answer(instruction, given, sampling, draw) for n, speaker in speakers.items()}
        _show(console, answers, labels)


def _questions(console: Console) -> Iterator[tuple[str, str]]:
    """(instruction, input) as typed; from a pipe each line is an instruction, with its input behind a tab."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            instruction, _, given = line.rstrip("\n").partition("\t")
            if instruction.strip():
                console.print(f"\n> {_visible(instruction)}" + (f"\n  {_visible(given)}" if given else ""))
                yield instruction, given
        return
    while True:
        try:
            instruction = input("\nPrompt: ")
            if instruction.strip():
                yield instruction, input("Input (or return): ")
        except EOFError:
            console.print()
            return


def _visible(text: str) -> str:
    """`text` with what would steer a terminal shown as its escape: a model's words are text and nothing else."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _show(console: Console, answers: dict[str, str], labels: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    lines = -(-len(answers) // max(1, console.width // _NARROWEST))
    across = -(-len(answers) // lines)
    named = list(answers.items())
    for start in range(0, len(named), across):
        drawn = Table(expand=True)
        for name, _ in named[start : start + across]:
            drawn.add_column(Text(labels[name]), ratio=1, overflow="fold")
        drawn.add_row(*(Text(_visible(text)) for _, text in named[start : start + across]))
        console.print(drawn)


if __name__ == "__main__":
    run_stage(main)
