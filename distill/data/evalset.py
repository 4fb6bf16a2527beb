"""Bring an evaluation set into the one form that later stages read; keep every reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from distill.data.audit import audit_legibility, audit_split, find_duplicates, legible
from distill.data.rows import Fields, Split, read_split
from distill.data.sources import HubSource, Source
from distill.data.tables import OnBadRow
from distill.project.errors import DataError
from distill.project.settings import Settings
from distill.text.words import PAPER, Words


class EvalSetSettings(Settings):
    """The form of an evaluation set, from a file of `evalsets/`; params.yaml names the place of its rows."""

    description: str
    """One sentence: the task, the number of rows, the origin."""
    licence: str
    """Terms of use of the rows."""
    citation: str = ""
    """The paper or page to cite."""
    file: str | None = None
    """The file of the set, if params.yaml names a folder."""
    hub: HubSource | None = None
    """Read this data set of the hub; params.yaml then names the set's own YAML, for DVC to watch."""
    fields: Fields = Fields()
    """Names of the rows' fields."""
    on_bad_row: OnBadRow = "error"
    """A malformed row stops the stage (`error`), or is left out and counted (`skip`)."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Number of first rows to take; null takes all."""
    rouge: Words = PAPER
    """Words of Rouge-L: the paper's, a-z and 0-9 alone, or `unicode`, those of any script."""


def read_evalset(settings: EvalSetSettings, path: Path) -> Split:
    """The usable rows of the set at `path`. Raises: DataError."""
    if settings.hub is not None:
        source, base = Source(hub=settings.hub, limit=settings.limit), path
    elif path.is_dir():
        if settings.file is None:
            raise DataError(f"{path} is a folder; say by `file` which of its files is the set")
        source, base = Source(path=settings.file, limit=settings.limit), path
    else:
        source, base = Source(path=path.name, limit=settings.limit), path.parent
    return read_split(source, settings.fields, settings.on_bad_row, base)


def as_examples(split: Split, words: Words = PAPER) -> list[dict[str, Any]]:
    """The rows as written to `evaluation/<set>.jsonl`; `id` counts the kept rows from 0.

    Other words of Rouge-L than the paper's travel with the rows, so that DVC scores again where they change.
    """
    chosen = {} if words == PAPER else {"rouge": words}
    return [
        {
            "id": number,
            "instruction": row.instruction,
            "input": row.input,
            "output": list(row.references),
            "category": row.category,
            **chosen,
        }
        for number, row in enumerate(split.rows)
    ]


def audit_evalset(name: str, settings: EvalSetSettings, split: Split) -> dict[str, Any]:
    """The content of `evaluation/<set>.report.json`."""
    return {
        "description": settings.description,
        "licence": settings.licence,
        "citation": settings.citation,
        **audit_split(split),
        "several_references": sum(len(row.references) > 1 for row in split.rows),
        "without_input": sum(not row.input.strip() for row in split.rows),
        **audit_legibility(legible(split, settings.rouge)),
        "duplicates": find_duplicates({name: split.rows})["within"][name],
    }
