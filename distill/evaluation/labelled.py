"""Sets of prompts whose answer is one of a few words, for calibration: BoolQ, sentiment, the toy world's own.

`labelsets/<name>.yaml` says how the rows become prompts; where they lie is said in params.yaml.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.data.sources import Source, read_source
from distill.data.tables import refuse_bad_rows
from distill.project.errors import DataError
from distill.project.settings import Settings
from distill.world.build import TEST_CLASSES, hash_class
from distill.world.drafts import Purpose
from distill.world.lore import draw_lore
from distill.world.task_types.passage_questions import ask_whether
from distill.world.task_types.sorting import judge_mood

_PLACE = re.compile(r"\{(\w+)\}")


class WorldSource(Settings):
    """Questions of the toy world, drawn from prompts that no training row has."""

    questions: Literal["whether", "mood"]
    """`whether`: yes or no on a passage. `mood`: whether a person (field `name`) is happy, sad or angry."""
    rows: Annotated[int, Field(ge=1, le=5_000)] = 300
    """How many."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The world's seed, as in the profile's `recipe.data.world`."""


class TextSource(Settings):
    """Plain text files, one for each label, an example a line; their field is `text`, the label's field `label`."""

    files: dict[str, str]
    """Label to file, inside the folder or ZIP archive that params.yaml names."""
    encoding: str = "utf-8"
    """Of the files."""


class LabelSetSettings(Settings):
    """How to read one labelled set: a file of `labelsets/`."""

    description: str
    """One sentence: what is asked, of how many rows, and where they are from."""
    licence: str
    """Under which terms the rows may be used."""
    citation: str = ""
    """The paper or page to cite."""
    instruction: str
    """The prompt's instruction; `{field}` stands for a field of the row."""
    input: str = ""
    """The prompt's input, likewise."""
    label: str = "label"
    """The field that holds the label."""
    words: Annotated[dict[str, str], Field(min_length=2)]
    """Label, as text in lower case, to the words a model should begin its answer with; `{field}` as above."""
    world: WorldSource | None = None
    """Draw the rows from the toy world (fields `instruction`, `input`, `label`)."""
    texts: TextSource | None = None
    """Read plain text files; otherwise params.yaml names a file of rows."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take so many rows, evenly spread over the file; null takes all."""

    @model_validator(mode="after")
    def _consistent(self) -> LabelSetSettings:
        if self.world is not None and self.texts is not None:
            raise ValueError("give at most one of `world` and `texts`")
        if len(set(self.words.values())) < len(self.words):
            raise ValueError("two labels in `words` have the same word; a prediction could not tell them apart")
        return self


def read_labelled(settings: LabelSetSettings, path: Path) -> list[dict[str, Any]]:
    """Rows `{id, instruction, input, words, answer}`; `answer` is the place of the right word in `words`.

    Raises: DataError, counting the rows whose label or fields are not what the settings say.
    """
    records = _records(settings, path)
    if settings.limit is not None and settings.limit < len(records):
        records = [records[i * len(records) // settings.limit] for i in range(settings.limit)]
    labels = list(settings.words)
    wanted = _places(settings)
    faults: dict[str, list[int]] = {}
    rows = []
    for number, record in enumerate(records):
        label = str(record.get(settings.label)).lower()
        if label not in settings.words:
            faults.setdefault(f"`{settings.label}` is {label!r}", []).append(number + 1)
            continue
        missing = sorted(wanted - record.keys())
        if missing:
            faults.setdefault(f"no field {', '.join(missing)}", []).append(number + 1)
            continue
        rows.append(
            {
                "id": number,
                "instruction": _fill(settings.instruction, record),
                "input": _fill(settings.input, record),
                "words": [_fill(word, record) for word in settings.words.values()],
                "answer": labels.index(label),
            }
        )
    if faults:
        told = [f"{len(where)} rows where {what} (first: row {where[0]})" for what, where in faults.items()]
        raise DataError(f"{path}: {'; '.join(told)}; correct `label`, `words` or the templates of its labelset")
    if not rows:
        raise DataError(f"{path} has no rows; point to a file that has some")
    return rows


def _places(settings: LabelSetSettings) -> set[str]:
    """The fields that the prompt and the words are filled from."""
    return set(_PLACE.findall(" ".join([settings.instruction, settings.input, *settings.words.values()])))


def _fill(template: str, record: dict[str, Any]) -> str:
    # One pass, so that braces inside a row's own text are left alone.
    return _PLACE.sub(lambda place: str(record[place[1]]), template).strip()


def _records(settings: LabelSetSettings, path: Path) -> list[dict[str, Any]]:
    if settings.world is not None:
        return _draw_world(settings.world)
    if settings.texts is not None:
        return [
            {"text": line.strip(), "label": label}
            for label, file in settings.texts.files.items()
            for line in _read_text(path, file, settings.texts.encoding).splitlines()
            if line.strip()
        ]
    table = read_source(Source(path=path.name), path.parent, {settings.label, *_places(settings)})
    refuse_bad_rows(table, table.bad)
    return [record.content for record in table.records]


def _read_text(path: Path, file: str, encoding: str) -> str:
    try:
        if path.is_dir():
            return (path / file).read_text(encoding=encoding)
        with zipfile.ZipFile(path) as archive:
            return archive.read(file).decode(encoding)
    except (FileNotFoundError, KeyError):
        raise DataError(f"{path} holds no {file}; correct `texts.files` or the path in params.yaml") from None
    except zipfile.BadZipFile:
        raise DataError(f"{path} is neither a folder nor a ZIP archive; correct the path in params.yaml") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not {encoding} ({error}); set `texts.encoding`, e.g. latin-1") from None


def _draw_world(world: WorldSource) -> list[dict[str, Any]]:
    lore, rng = draw_lore(world.seed), Random(f"{world.seed}/{world.questions}")
    write = {"whether": ask_whether, "mood": judge_mood}[world.questions]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    while len(rows) < world.rows:
        draft = write(rng, lore, Purpose.KNOWN)
        if hash_class(draft) in TEST_CLASSES:
            record = {"instruction": draft.instruction, "input": draft.passage, **_label(draft.answers[0])}
            rows.setdefault((draft.instruction, draft.passage), record)
    return list(rows.values())


def _label(answer: str) -> dict[str, str]:
    """What an answer of the toy world says: "Yes.", or "Mara is sad because ..."."""
    name, _, told = answer.partition(" is ")
    return {"name": name, "label": told.split()[0]} if told else {"label": answer.rstrip(".")}
