"""A profile from a sentence: two models and a file of rows become a family and a student of params.yaml.

python -m commands.adopt --name mine --teacher <id or folder> --student <id or folder> --data my.jsonl

A hub id carries its commit: `Qwen/Qwen2.5-0.5B@<40 digits>`. Written are profiles/<name>.yaml with a recipe chosen by
the models' sizes, each choice with its reason; an evaluation set; and the rows of the table. Without `--test` a tenth
of the rows, at most 500, is kept from training for it. Nothing that is there is overwritten, and what does not pass
`commands.check` is taken back.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from commands.adopt_recipe import Adoption, profile_text
from commands.methods import read_methods
from distill.project.errors import DataError, SettingsError, run_stage
from distill.project.files import write_jsonl, write_text
from distill.project.references import Reference
from distill.project.settings import parse, read_yaml
from distill.project.table import PARAMS

if TYPE_CHECKING:
    from distill.data.rows import Fields, Row

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FEWEST_ROWS = 20
_MOST_TEST_ROWS = 500


@dataclass(frozen=True)
class Rows:
    """Where the family's rows and the rows of its evaluation set lie."""

    family: Path
    """What params.yaml names, for DVC to watch."""
    train: str
    """The training rows, from there."""
    test: Path
    count: int
    """Training rows, those for validation included."""


def main() -> None:
    """Write the profile, the evaluation set and the rows of params.yaml, and print how to build them."""
    parser = argparse.ArgumentParser(
        prog="python -m commands.adopt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="the new family; its student will be <name>-student")
    parser.add_argument("--teacher", required=True, help="hub id with @commit, or folder")
    parser.add_argument("--student", required=True, help="hub id with @commit, or folder, of the same tokenizer")
    parser.add_argument("--data", required=True, type=Path, help="rows with instruction, input and output")
    parser.add_argument("--test", type=Path, help="evaluation rows; otherwise some of --data are kept for it")
    parser.add_argument("--corpus", type=Path, help="plain text for L_PT; none leaves the term out")
    parser.add_argument("--fields", default="", help="other names, e.g. instruction=question,output=answer")
    parser.add_argument("--teacher-is-finished", action="store_true", help="use it as it is, without fine-tuning")
    parser.add_argument("--only", action="store_true", help="take the other rows out of params.yaml's table")
    parser.add_argument("--hours", type=float, help="write a size that takes about so long on this machine")
    given = parser.parse_args()
    new = [Path("profiles") / f"{given.name}.yaml", Path("evalsets") / f"{given.name}_test.yaml"]
    _require_free(given.name, [*new, Path("adopted") / given.name])
    models = {role: _reference(role, getattr(given, role)) for role in ("teacher", "student")}
    fields = _fields(given.fields)
    for path in filter(None, (given.test, given.corpus)):
        if not path.exists():
            raise DataError(f"{path} does not exist; correct the path")

    from commands.adopt_models import examine

    rows = _read_rows(given.data, fields)
    found = examine(models["teacher"], models["student"])
    before = PARAMS.read_bytes()
    made = [*new]
    try:
        placed = _place(given.name, given.data, given.test, rows, made)
        known = read_methods()
        methods = [known[name] for name in read_yaml(PARAMS)["methods"] if name in known]
        adoption = Adoption(
            name=given.name,
            teacher=models["teacher"],
            student=models["student"],
            finished_teacher=given.teacher_is_finished,
            models=found,
            train=placed.train,
            rows=placed.count,
            fields=fields if given.test is not None else type(fields)(),
            corpus=None if given.corpus is None else str(given.corpus.resolve()),
            methods=tuple(methods),
        )
        write_text(new[0], profile_text(adoption))
        write_text(new[1], _evalset_text(given, fields))
        _add_rows(given.name, placed, given.only)
        _check()
    except BaseException:
        PARAMS.write_bytes(before)
        _remove(made)
        raise
    _tell(given, adoption, placed)


def _require_free(name: str, places: list[Path]) -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(f"--name {name}: use letters, digits, `_` and `-` only, because DVC builds names from it")
    table = read_yaml(PARAMS)
    taken = [str(place) for place in places if place.exists()]
    for kind, own in (("families", name), ("students", f"{name}-student"), ("datasets", f"{name}_test")):
        taken += [f"{kind}.{own} of {PARAMS}"] if own in (table.get(kind) or {}) else []
    if taken:
        raise SettingsError(f"{', '.join(taken)}: there already; choose another --name, or remove what is there")


def _reference(role: str, text: str) -> Reference:
    if "@" not in text and _HUB_ID.fullmatch(text) and not Path(text).exists():
        raise SettingsError(
            f"--{role} {text}: no such folder, and a hub id needs its commit: write {text}@<the 40 digits that "
            f"`git ls-remote https://huggingface.co/{text} HEAD` prints>"
        )
    return parse(text, Reference, f"--{role}")


def _fields(text: str) -> Fields:
    from distill.data.rows import Fields

    pairs = [part.partition("=") for part in text.split(",") if part]
    return parse({name.strip(): value.strip() for name, _, value in pairs}, Fields, "--fields")


def _read_rows(path: Path, fields: Fields) -> list[Row]:
    from distill.data.rows import read_split
    from distill.data.sources import Source

    rows = read_split(Source(path=path.name), fields, "error", path.parent).rows
    if len(rows) < _FEWEST_ROWS:
        raise DataError(f"{path} has {len(rows)} usable rows, too few to train, validate and test on; give more")
    return rows


def _place(name: str, data: Path, test: Path | None, rows: list[Row], made: list[Path]) -> Rows:
    """Where the rows lie: the user's own files, or copies of them where a part is kept for the evaluation."""
    if test is not None:
        return Rows(data, data.name, test, len(rows))
    from distill.data.prepare import as_raw
    from distill.project.randomness import permutation

    folder = Path("adopted") / name
    made.append(folder)
    # As validation rows are: drawn from the whole file, which may be sorted, and the same each time.
    kept = set(permutation(len(rows), 0, "test rows")[: min(len(rows) // 10, _MOST_TEST_ROWS)])
    for file, part in (("test", [i for i in range(len(rows)) if i in kept]), ("train", _others(len(rows), kept))):
        write_jsonl(folder / f"{file}.jsonl", (as_raw(rows[i]) for i in part))
    return Rows(folder, "train.jsonl", folder / "test.jsonl", len(rows) - len(kept))


def _others(count: int, kept: set[int]) -> list[int]:
    return [i for i in range(count) if i not in kept]


def _evalset_text(given: argparse.Namespace, fields: Fields) -> str:
    lines = [f"description: Test rows of the family {given.name}.", "licence: that of its rows"]
    changed = fields.model_dump(exclude_defaults=True)
    if given.test is not None and changed:
        lines.append("fields: {" + ", ".join(f"{name}: {value}" for name, value in changed.items()) + "}")
    return "\n".join(lines) + "\n"


def _add_rows(name: str, placed: Rows, only: bool) -> None:
    """The rows of the table, first in each mapping; everything else in params.yaml stays as it is written."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(PARAMS.read_text(encoding="utf-8"))
    row = CommentedMap({"family": name})
    row.fa.set_flow_style()
    for kind, key, value in (
        ("students", f"{name}-student", row),
        ("families", name, str(placed.family)),
        ("datasets", f"{name}_test", str(placed.test)),
    ):
        mapping = content[kind]
        last = mapping.ca.items.get(list(mapping)[-1])
        mapping.insert(0, key, value)
        if only:
            for other in [other for other in mapping if other != key]:
                del mapping[other]
            if last is not None:  # the empty line and the comment before what comes next hang on it
                last[2].value = "\n" + last[2].value.partition("\n")[2]
                mapping.ca.items[key] = last
    with PARAMS.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


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


def _tell(given: argparse.Namespace, adoption: Adoption, placed: Rows) -> None:
    from commands.adopt_estimate import tell_cost

    others = [name for name in read_yaml(PARAMS)["students"] if name != f"{given.name}-student"]
    print(
        f"profiles/{given.name}.yaml, evalsets/{given.name}_test.yaml and the rows of {PARAMS} are written and sound:"
    )
    print(f"  teacher   {adoption.teacher}, {adoption.models.teacher_parameters:,} parameters")
    print(f"  student   {adoption.student}, {adoption.models.student_parameters:,} parameters")
    print(f"  rows      {placed.count:,} for training, of which {adoption.valid_rows:,} choose checkpoints")
    if others:
        print(f"  {PARAMS} goes on building {', '.join(others)} too; with --only it would not")
    tell_cost(given.name, given.hours)
    print("Read the profile, lower hardware.micro_batch if memory is short, then:\n  make repro")


if __name__ == "__main__":
    run_stage(main)
