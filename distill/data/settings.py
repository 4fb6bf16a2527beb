"""Settings of a family's data: `recipe.data` of a profile."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from distill.data.corpus import CorpusSource
from distill.data.rows import Fields
from distill.data.sources import Source
from distill.data.tables import OnBadRow
from distill.project.settings import Settings
from distill.runs.limits import RowLimits
from distill.text.words import PAPER, Words
from distill.world import WorldSettings


class DataSettings(Settings):
    """Either `world`, which brings all its rows, or `train` with the settings beside it."""

    world: WorldSettings | None = None
    """Write the toy world's rows, documents and evaluation sets."""
    train: Source | None = None
    """Training rows."""
    valid: Source | None = None
    """Validation rows, for choosing checkpoints."""
    valid_rows: Annotated[int, Field(ge=1)] | None = None
    """Without `valid`: number of rows to take out of the training rows, spread over the whole source."""
    test: Source | None = None
    """Rows of the evaluation set that stems from the same source, only to report duplicates with it."""
    licence: str | None = None
    """Licence of the rows, for the cards of exported models."""
    fields: Fields = Fields()
    """Names of the rows' fields."""
    on_bad_row: OnBadRow = "error"
    """A malformed row stops preparation (`error`), or is left out and counted (`skip`)."""
    corpus: CorpusSource | None = None
    """Plain text for pre-training and for the language-modelling loss."""
    rouge: Words = PAPER
    """Words of Rouge-L in validation: the paper's, a-z and 0-9 alone, or `unicode`, those of any script."""
    rows: RowLimits = RowLimits()
    """Limits on the training rows of teacher and students."""

    @model_validator(mode="after")
    def _one_origin(self) -> DataSettings:
        own = self.model_fields_set & {"train", "valid", "valid_rows", "test", "fields", "corpus"}
        if self.world is not None and own:
            raise ValueError(f"`world` brings its own rows; remove {' and '.join(sorted(own))}")
        if self.world is None and self.train is None:
            raise ValueError("give `train` (a path or a hub data set), or `world` for the toy data")
        if self.world is None and (self.valid is None) == (self.valid_rows is None):
            raise ValueError("give exactly one of `valid` and `valid_rows`")
        return self
