"""Reading answers and references side by side, so that nothing is scored against the wrong row.

Answers (`text`) and references (`output`, one string or a list) are JSONL, the project's own or anyone's.
Rows are matched by `id` where both files have it, else by their order; `seed` marks repeated samples of one
prompt. The reference implementation compares the first `min(#answers, #references)` rows; here every fault is
counted and refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.project.errors import DataError
from distill.text.words import PAPER, Words

_PLACES_SHOWN = 5
Key = tuple[int, int | str]  # (seed, id)


@dataclass(frozen=True)
class Answers:
    """The answers of one model to one evaluation set: S seeds × N examples, ordered as the references."""

    ids: list[int | str]
    """[N]"""
    seeds: list[int]
    """[S], ascending; `[0]` where the file names none."""
    references: list[list[str]]
    """[N], each one or more."""
    texts: list[list[str]]
    """[S][N]"""
    tokens: list[list[int]] | None
    """[S][N] response lengths in tokens, where every row tells it."""
    truncated: list[list[bool]] | None
    """[S][N] whether generation stopped at the length limit, where every row tells it."""
    words: Words = PAPER
    """Words of Rouge-L that the references ask for."""


@dataclass
class Faults:
    """What is wrong with the rows: kind of fault → where it was seen."""

    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        """Note one more fault of a kind."""
        self.places.setdefault(kind, []).append(place)

    def sentences(self) -> list[str]:
        """One clause for each kind, with its count and the first few places."""
        clauses = []
        for kind, places in self.places.items():
            more = ", …" if len(places) > _PLACES_SHOWN else ""
            clauses.append(f"{len(places)} {kind} ({', '.join(places[:_PLACES_SHOWN])}{more})")
        return clauses


@dataclass(frozen=True)
class _Row:
    id: int | str | None
    seed: int | None
    content: dict[str, Any]


def _lines(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The place and object of each line; a line that holds none is noted and given as None."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; correct the name, or run `dvc repro` to make it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None
    # not splitlines: it also breaks at U+2028 and its like, which JSON allows inside a string
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        place = f"{path.name}:{number}"
        content: Any = None
        if not line.strip():
            faults.add("empty lines", place)
        else:
            try:
                content = json.loads(line)
            except json.JSONDecodeError:
                faults.add("lines that are not JSON", place)
            else:
                if not isinstance(content, dict):
                    faults.add("lines that are not an object", place)
        yield place, content if isinstance(content, dict) else None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key_fields(content: dict[str, Any], place: str, faults: Faults) -> _Row:
    identity, seed = content.get("id"), content.get("seed")
    if identity is not None and not (_is_int(identity) or isinstance(identity, str)):
        faults.add("rows whose `id` is neither a whole number nor a string", place)
        identity = None
    if seed is not None and not _is_int(seed):
        faults.add("rows whose `seed` is not a whole number", place)
        seed = None
    return _Row(identity, seed, content)


def _read_answers(path: Path, allow_empty: bool, faults: Faults) -> list[_Row]:
    rows = []
    for place, content in _lines(path, faults):
        if content is None:
            rows.append(_Row(None, None, {}))  # keeps its place: the rows below it still count
            continue
        text = content.get("text")
        if text is None:
            faults.add("answers without `text`", place)
        elif not isinstance(text, str):
            faults.add("answers whose `text` is not a string", place)
        elif not allow_empty and not text.strip():
            faults.add("empty answers", place)
        rows.append(_key_fields(content, place, faults))
    return rows


def _read_references(path: Path, allow_empty: bool, faults: Faults) -> list[_Row]:
    enough = any if allow_empty else all  # one empty reference among others can only score 0, never mislead
    rows = []
    for place, content in _lines(path, faults):
        if content is None:
            rows.append(_Row(None, None, {}))
            continue
        output = content.get("output")
        options: list[Any] = output if isinstance(output, list) else [output]
        if output is None:
            faults.add("references without `output`", place)
        elif not all(isinstance(option, str) for option in options):
            faults.add("references whose `output` is neither a string nor a list of strings", place)
        elif not (options and enough(option.strip() for option in options)):
            faults.add("empty references", place)
        rows.append(_key_fields({**content, "output": options}, place, faults))
    return rows


def _check_ids(path: Path, rows: Sequence[_Row], faults: Faults) -> None:
    """Note rows without `id` in a file where others have one: matching those by order would be a guess."""
    if any(row.id is not None for row in rows):
        for number, row in enumerate(rows, start=1):
            if row.content and "id" not in row.content:
                faults.add("rows without the `id` that others have", f"{path.name}:{number}")


def _keys(rows: Sequence[_Row], by_id: bool) -> list[Key]:
    """Each row's (seed, id); without ids the n-th row of a seed answers the n-th reference."""
    seen: Counter[int] = Counter()
    keys: list[Key] = []
    for row in rows:
        seed = 0 if row.seed is None else row.seed
        keys.append((seed, row.id if by_id and row.id is not None else seen[seed]))
        seen[seed] += 1
    return keys


def _place(key: Key, several: bool) -> str:
    return f"seed {key[0]} id {key[1]}" if several else f"id {key[1]}"


def _check_keys(answers: Sequence[Key], references: Sequence[Key], faults: Faults) -> None:
    """Note answers that are missing, extra or given twice, and references given twice."""
    seeds = sorted({seed for seed, _ in answers}) or [0]
    several = len(seeds) > 1
    known = Counter(identity for _, identity in references)
    given = Counter(answers)
    for identity, times in known.items():
        if times > 1:
            faults.add("references whose `id` occurred before", f"id {identity}")
        for seed in seeds:
            if (seed, identity) not in given:
                faults.add("answers missing", _place((seed, identity), several))
    for key, times in given.items():
        if key[1] not in known:
            faults.add("answers without a reference", _place(key, several))
        elif times > 1:
            faults.add("answers given twice", _place(key, several))


def read(answers_path: Path, references_path: Path, allow_empty: bool = True) -> Answers:
    """Read answers and the references they belong to.

    allow_empty: whether an answer may be "" (a model that stops at once gave an answer, worth 0 points), and
    one reference among several too.
    Raises: DataError, counting every row that is missing, extra, repeated, empty or of the wrong type.
    """
    faults = Faults()
    answers = _read_answers(answers_path, allow_empty, faults)
    references = _read_references(references_path, allow_empty, faults)
    by_id = all(row.id is not None for row in [*answers, *references])
    for path, rows in ((answers_path, answers), (references_path, references)):
        _check_ids(path, rows, faults)
    answer_keys, reference_keys = _keys(answers, by_id), _keys(references, by_id)
    # keys guessed from damaged rows would report the same fault again under another name
    if not faults.places or len(answers) != len(references):
        _check_keys(answer_keys, [(0, identity) for _, identity in reference_keys], faults)
    if not references:
        faults.add("reference file without rows", references_path.name)
    if faults.places:
        raise DataError(
            f"{answers_path} cannot be scored against {references_path}: {'; '.join(faults.sentences())}. "
            "Give each reference exactly one answer for each seed, with `text` a string and `output` a string"
            " or a list of strings" + ("" if allow_empty else ", or pass --allow-empty to give empty answers 0 points")
        )
    return _align(dict(zip(answer_keys, answers, strict=True)), [i for _, i in reference_keys], references)


def _align(rows: dict[Key, _Row], ids: list[int | str], references: Sequence[_Row]) -> Answers:
    seeds = sorted({seed for seed, _ in rows})
    grid = [[rows[seed, identity].content for identity in ids] for seed in seeds]
    cells = [cell for line in grid for cell in line]
    tells_length = all(_is_int(cell.get("tokens")) for cell in cells)
    tells_end = all(isinstance(cell.get("truncated"), bool) for cell in cells)
    # Any other value is a field of somebody's own.
    asked = all(row.content.get("rouge") == "unicode" for row in references)
    return Answers(
        ids=ids,
        seeds=seeds,
        references=[row.content["output"] for row in references],
        texts=[[cell["text"] for cell in line] for line in grid],
        tokens=[[cell["tokens"] for cell in line] for line in grid] if tells_length else None,
        truncated=[[cell["truncated"] for cell in line] for line in grid] if tells_end else None,
        words="unicode" if asked else PAPER,
    )
