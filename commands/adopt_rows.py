"""The rows that `commands.adopt` is given: read by their form, split by prompt, and put where DVC watches them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.project.errors import DataError
from distill.project.files import write_jsonl
from distill.project.settings import parse
from distill.text.words import PAPER, Words, legibility

if TYPE_CHECKING:
    from distill.data.rows import Fields, Row, Split

_FEWEST_ROWS = 20
_MOST_TEST_ROWS = 500
_LOOKED_AT = 20
_MOST_UNREAD = 0.1  # share of references; of more, Rouge-L is over words of any script


@dataclass(frozen=True)
class GivenRows:
    """The usable rows of the files that were given."""

    data: Path
    fields: Fields
    train: Split
    test: Split | None
    valid: Split | None
    test_file: Path | None
    valid_file: Path | None


@dataclass(frozen=True)
class PlacedRows:
    """Where the family's rows and the rows of its evaluation set lie."""

    family: Path
    """What params.yaml names, for DVC to watch."""
    test: Path
    """The rows of the evaluation set."""
    train_path: str
    """The training rows, from the family's place."""
    test_path: str
    valid_path: str | None
    fields: Fields
    """Names of the fields in all of these files."""
    training: list[Row]
    """Those for validation included, unless they have a file of their own."""
    lines: tuple[str, ...]
    """What a person is told of the rows."""


def words_of(rows: Sequence[Row]) -> tuple[Words, list[str]]:
    """The words of Rouge-L that can read these rows, and what a person is told where they are not the paper's."""
    found = legibility([row.references for row in rows])
    if found.unread <= _MOST_UNREAD * found.texts:
        return PAPER, []
    told = f"Rouge-L   over Unicode words: the paper's cannot read {found.unread:,} of {found.texts:,} references"
    return "unicode", [told]


def read_given(data: Path, test: Path | None, valid: Path | None, names: str) -> GivenRows:
    """Read the user's files; `names` are those of `--fields`.

    Raises: DataError for a file that cannot be read or has too few rows; SettingsError for `--fields`.
    """
    fields = _fields(names, data)
    train = _read(data, fields)
    if len(train.rows) < _FEWEST_ROWS:
        raise DataError(f"{data} has {len(train.rows)} usable rows, too few to train, validate and test on; give more")
    tests, valids = (None if path is None else _read(path, fields) for path in (test, valid))
    return GivenRows(data, fields, train, tests, valids, test, valid)


def _fields(text: str, data: Path) -> Fields:
    """The fields as given; where none names question or answer, a conversation is found by its look."""
    from distill.data.conversations import find_conversations
    from distill.data.rows import Fields
    from distill.data.sources import Source, read_source

    pairs = [part.partition("=") for part in text.split(",") if part]
    names = {name.strip(): value.strip() for name, _, value in pairs}
    if not names.keys() & {"instruction", "output", "conversation"}:
        first, plain = Source(path=data.name, limit=_LOOKED_AT), Fields()
        columns = read_source(first, data.parent, plain.columns).columns
        is_plain = {plain.instruction, plain.output} <= set(columns)
        found = [] if is_plain else find_conversations(read_source(first, data.parent))
        if len(found) > 1:
            raise DataError(
                f"{data} holds conversations in {' and '.join(found)}; choose one: `--fields conversation={found[0]}`"
            )
        names |= {"conversation": found[0]} if found else {}
    return parse(names, Fields, "--fields")


def _read(path: Path, fields: Fields) -> Split:
    from distill.data.rows import read_split
    from distill.data.sources import Source

    return read_split(Source(path=path.name), fields, "error", path.parent)


def place_rows(name: str, given: GivenRows, made: list[Path]) -> PlacedRows:
    """Leave the user's own files where they are, or copy them where that would not do.

    That is where a part is kept for the evaluation, and where validation rows are in a file of their own, which DVC
    would not watch. New places are added to `made`. Raises: DataError when no prompt can be kept apart.
    """
    from distill.data.rows import Fields
    from distill.data.splits import draw_prompts

    rows = given.train.rows
    if given.test is not None and given.test_file is not None and given.valid is None:
        return PlacedRows(
            given.data,
            given.test_file,
            given.data.name,
            os.path.relpath(given.test_file, given.data.parent),
            None,
            given.fields,
            rows,
            tuple(_lines(given, rows, given.test.rows)),
        )
    if given.test is not None:
        tests, training = given.test.rows, rows
    else:
        wanted = min(len(rows) // 10, _MOST_TEST_ROWS)
        # As validation rows are: drawn from the whole file, which may be sorted, and the same each time.
        kept = draw_prompts(rows, wanted, "test rows")
        if not kept:
            raise DataError(f"all {len(rows)} rows of {given.data} ask the same; name other rows with `--test`")
        chosen = set(kept)
        tests, training = [rows[i] for i in kept], [row for i, row in enumerate(rows) if i not in chosen]
    parts = {"test": tests, "train": training, "valid": None if given.valid is None else given.valid.rows}
    folder = Path("adopted") / name
    made.append(folder)
    for file, part in parts.items():
        if part is not None:
            _write(folder / f"{file}.jsonl", part)
    return PlacedRows(
        folder,
        folder / "test.jsonl",
        "train.jsonl",
        "test.jsonl",
        None if given.valid is None else "valid.jsonl",
        Fields(),
        training,
        tuple(_lines(given, training, tests)),
    )


def _write(path: Path, rows: Sequence[Row]) -> None:
    from distill.data.prepare import as_raw

    write_jsonl(path, (as_raw(row) for row in rows))


def _lines(given: GivenRows, train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    from distill.data.splits import count_prompts, shared_prompts

    lines = []
    files = {given.data: given.train, given.test_file: given.test, given.valid_file: given.valid}
    for path, split in files.items():
        if split is None:
            continue
        reasons = {why.replace("_", " "): len(rows) for why, rows in split.dropped.items() if rows}
        counts = [f"{count:,} {what} left out" for what, count in reasons.items()]
        counts += [f"{count:,} {what.replace('_', ' ')} unused" for what, count in split.unused.items()]
        if counts:
            lines.append(f"  of {path}: {', '.join(counts)}")
    if repeats := len(train) - count_prompts(train):
        lines.append(f"  repeats   {repeats:,} training rows ask what another asks; all rows of a prompt stay together")
    for kind, rows in (("test", test), ("validation", given.valid.rows if given.valid else [])):
        if shared := shared_prompts(train, rows):
            lines.append(
                f"  warning   {shared:,} of {len(rows):,} {kind} rows ask what a training row asks; leave them out"
            )
    return lines
