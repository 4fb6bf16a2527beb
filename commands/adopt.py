"""A profile from a sentence: two models and a file of rows become a family and a student of params.yaml.

python -m commands.adopt --name mine --teacher <id or folder> --student <id or folder> --data my.jsonl

A hub id carries its commit: `Qwen/Qwen2.5-0.5B@<40 digits>`. Written are profiles/<name>.yaml with a recipe chosen by
the models and the rows' lengths, each choice with its reason; an evaluation set; and the rows of the table. Without
`--test` a tenth of the rows, at most 500, is kept from training for it. Nothing that is there is overwritten, and what
does not pass `commands.check` is taken back.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands.adopt_recipe import Adoption, flow, profile_text
from commands.adopt_rows import PlacedRows, place_rows, read_given, words_of
from commands.adopt_table import add_rows, former_results
from commands.methods import read_methods
from distill.project.errors import DataError, SettingsError, run_stage
from distill.project.files import write_text
from distill.project.references import Reference
from distill.project.settings import parse, read_yaml
from distill.project.table import PARAMS, read_table
from distill.text.words import PAPER, Words

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMPARED_ROWS = 200


def main() -> None:
    """Write the profile, the evaluation set and the rows of params.yaml, and print how to build them."""
    given = _arguments()
    new = [Path("profiles") / f"{given.name}.yaml", Path("evalsets") / f"{given.name}_test.yaml"]
    _require_free(given.name, [*new, Path("adopted") / given.name])
    if given.student is None and given.student_layers is None:
        raise SettingsError("name a model as --student, or give --student-layers to cut one from the teacher")
    given.student = given.student or given.teacher
    models = {role: _reference(role, getattr(given, role)) for role in ("teacher", "student")}
    if given.corpus is not None and not _is_there(given.corpus):
        raise DataError(f"{given.corpus} does not exist; correct the path")
    read = read_given(given.data, given.test, given.valid, given.fields)

    from commands.adopt_look import look
    from commands.adopt_models import examine
    from commands.adopt_prompt import choose_prompt
    from distill.text.tokenizers import load_tokenizer

    texts = ["\n".join([row.instruction, row.input, *row.references]) for row in read.train.rows[:_COMPARED_ROWS]]
    found = examine(models["teacher"], models["student"], texts, given.chat_template)
    prompt = choose_prompt(read.train.rows, load_tokenizer(models["student"]), found)
    settings = prompt.settings(found)
    looked = look(models["teacher"], models["student"], found, settings, read.train.rows, given.student_layers)
    if looked.cut is not None:  # what is left follows no instructions until it is trained
        found = replace(found, student_parameters=looked.cut.parameters, student_instructed=False)
    before, former = PARAMS.read_bytes(), read_yaml(PARAMS)
    made = [*new]
    try:
        placed = place_rows(given.name, read, made)
        known = read_methods()
        methods = [known[name] for name in former["methods"] if name in known]
        words, told = words_of([*read.train.rows, *(read.test.rows if read.test else ())])
        adoption = Adoption(
            name=given.name,
            teacher=models["teacher"],
            student=models["student"],
            finished_teacher=given.teacher_is_finished,
            models=found,
            cut=looked.cut,
            prompt=prompt,
            train=placed.train_path,
            test=placed.test_path,
            valid=placed.valid_path,
            rows=len(placed.training),
            fields=placed.fields,
            corpus=None if given.corpus is None else str(given.corpus.resolve()),
            methods=tuple(methods),
            notes=placed.lines,
            words=words,
        )
        write_text(new[0], profile_text(adoption))
        write_text(new[1], _evalset_text(given.name, placed, words))
        add_rows(given.name, str(placed.family), str(placed.test), given.only)
        _check()
    except BaseException:
        PARAMS.write_bytes(before)
        _remove(made)
        raise
    left = _left_behind(former) if given.only else []
    _tell(given.name, adoption, placed, [*told, *looked.lines, *left], given.hours)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m commands.adopt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="the new family; its student will be <name>-student")
    parser.add_argument("--teacher", required=True, help="hub id with @commit, or folder")
    parser.add_argument("--student", help="the same, of the same tokenizer; with --student-layers the teacher if none")
    parser.add_argument("--student-layers", type=int, help="cut the student to so many layers, the best ones found")
    parser.add_argument("--data", required=True, type=_file, help="rows with instruction, input and output, or chats")
    parser.add_argument("--test", type=_file, help="evaluation rows; otherwise some of --data are kept for it")
    parser.add_argument("--valid", type=_file, help="validation rows; otherwise some of --data are taken for it")
    parser.add_argument("--corpus", type=_file, help="plain text for L_PT; none leaves the term out")
    parser.add_argument("--fields", default="", help="other names, e.g. instruction=question,output=answer")
    parser.add_argument("--chat-template", help="name of the tokenizer's chat template, or `none` to do without one")
    parser.add_argument("--teacher-is-finished", action="store_true", help="use it as it is, without fine-tuning")
    parser.add_argument("--only", action="store_true", help="take the other rows out of params.yaml's table")
    parser.add_argument("--hours", type=_hours, help="write a size that takes about so long on this machine")
    return parser.parse_args()


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"`{text}` is no time that work could fit; give hours, e.g. 1 or 0.5")
    return hours


def _file(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111  (no HOME is no fault)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


def _require_free(name: str, places: list[Path]) -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--name {name[:70]}: use letters, digits, `_` and `-` only, 64 at most and no `-` first, because DVC "
            "builds names from it"
        )
    table = read_table()
    taken = [str(place) for place in places if place.exists()]
    for kind, own, there in (
        ("families", name, table.families),
        ("students", f"{name}-student", table.students),
        ("datasets", f"{name}_test", table.datasets),
    ):
        taken += [f"{kind}.{own} of {PARAMS}"] if own in there else []
    if taken:
        raise SettingsError(f"{', '.join(taken)}: there already; choose another --name, or remove what is there")


def _reference(role: str, text: str) -> Reference:
    if "@" not in text and _HUB_ID.fullmatch(text) and not _is_there(_file(text)):
        raise SettingsError(
            f"--{role} {text}: no such folder, and a hub id needs its commit: write {text}@<the 40 digits that "
            f"`git ls-remote https://huggingface.co/{text} HEAD` prints>"
        )
    source = parse(text, Reference, f"--{role}")
    if source.path is not None and not _is_there(Path(source.path)):
        raise SettingsError(f"--{role} {text}: no such folder; correct the path, or give a hub id with its commit")
    return source


def _evalset_text(name: str, placed: PlacedRows, words: Words) -> str:
    lines = [f"description: Test rows of the family {name}.", "licence: that of its rows"]
    if changed := placed.fields.model_dump(exclude_defaults=True):
        lines.append(f"fields: {flow(changed)}")
    if words != PAPER:
        lines.append(f"rouge: {words}")
    return "\n".join(lines) + "\n"


def _check() -> None:
    from commands.check import found_faults

    faults, *_ = found_faults(everything=False)
    if faults:
        raise SettingsError("nothing was written, because it would not pass the check:\n  " + "\n  ".join(faults))


def _remove(places: list[Path]) -> None:
    import shutil

    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _tell(name: str, adoption: Adoption, placed: PlacedRows, more: list[str], hours: float | None) -> None:
    from commands.adopt_estimate import tell_cost

    others = [student for student in read_yaml(PARAMS)["students"] if student != f"{name}-student"]
    models, pace = adoption.models, adoption.student_pace
    print(f"profiles/{name}.yaml, evalsets/{name}_test.yaml and the rows of {PARAMS} are written and sound:")
    print(f"  teacher   {adoption.teacher}, {models.teacher_parameters:,} parameters")
    print(f"  student   {adoption.student}, {models.student_parameters:,} parameters")
    if doubt := _doubt(adoption):
        print(f"  warning   {doubt}")
    if adoption.valid is None:
        print(f"  rows      {adoption.rows:,} for training, of which {adoption.valid_rows:,} choose checkpoints")
    else:
        print(f"  rows      {adoption.rows:,} for training; those of --valid choose checkpoints")
    print("\n".join([*placed.lines, *adoption.prompt.lines]))
    print(f"  rates     unswept: {pace.rate} and {pace.epochs} epochs for the student, {pace.why}")
    print("".join(f"  {line}\n" for line in [*(f"note: {note}" for note in models.notes), *more]), end="")
    if others:
        print(f"  {PARAMS} goes on building {', '.join(others)} too; with --only it would not")
    tell_cost(name, hours)
    print("Read the profile, lower hardware.micro_batch if memory is short, then:\n  make repro")


def _doubt(adoption: Adoption) -> str | None:
    """Why these two models may not be what was meant."""
    teacher, student = adoption.teacher, adoption.student
    if adoption.cut is None and _place(teacher) == _place(student):
        return "teacher and student are one model: nothing is made smaller; name a smaller model as --student"
    if adoption.models.teacher_parameters <= adoption.models.student_parameters:
        return "the teacher is not larger than the student; exchange the two if that was not meant"
    return None


def _place(source: Reference) -> tuple[str, str | None]:
    return (source.name if source.path is None else str(Path(source.path).resolve()), source.revision)


def _left_behind(former: dict[str, Any]) -> list[str]:
    """What `--only` switched off, and what it leaves of the former rows."""
    lines = []
    if (former.get("judge") or {}).get("datasets"):
        lines.append(f"the judge is off, because verdicts cost money: set `judge` of {PARAMS} for the new rows")
    if left := former_results(list(former["students"])):
        lines.append(f"results of the former rows stay; `git rm {' '.join(left)}` takes them out")
    return lines


if __name__ == "__main__":
    run_stage(main)
