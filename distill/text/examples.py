"""Prepared rows for the training stages: token ids, and the text behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.project.errors import DataError
from distill.text.words import PAPER, Words


@dataclass(frozen=True)
class Example:
    """One prepared row; `index` is its place in the file and keys every random draw made for it."""

    index: int
    prompt_ids: list[int]
    response_ids: list[int]
    """Ends with eos unless it was cut at the limit."""
    reference: str


def read_examples(path: Path, limit: int | None = None, samples: int | None = None) -> list[Example]:
    """The first `limit` rows (all when None) of a prepared Parquet file.

    `samples` keeps that many responses of each prompt, in a file of the teacher's responses (it has a column `sample`).

    Raises: DataError when the file is missing or has no row.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `dvc repro` to prepare the data")
    table = pq.read_table(path).slice(0, limit)
    if samples is not None:
        table = table.filter(pc.less(table.column("sample"), samples))
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows; check the audit beside it (report.json)")
    columns = (table.column(name).to_pylist() for name in ("prompt_ids", "response_ids", "output"))
    return [Example(i, *row) for i, row in enumerate(zip(*columns, strict=True))]


def read_words(path: Path) -> Words:
    """Words of Rouge-L that a prepared validation split asks for: the paper's where it names none."""
    if "rouge" not in pq.read_schema(path).names:
        return PAPER
    named = pq.read_table(path, columns=["rouge"]).column("rouge")[0].as_py()
    return "unicode" if named == "unicode" else PAPER


def read_documents(path: Path) -> list[str]:
    """The texts of a prepared plain-text corpus."""
    if not path.is_file():
        raise DataError(
            f"{path} does not exist, so there is no plain text to learn from; "
            "give the profile's `recipe.data.corpus`, or switch off `pretrain` and set `lm_coef: 0`"
        )
    return [str(text) for text in pq.read_table(path, columns=["text"]).column("text").to_pylist()]
