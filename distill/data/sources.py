"""Sources of data: a local file or a pinned data set of the hub, read into a `RecordTable`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from distill.data.jsonl import read_json_array, read_json_lines
from distill.data.tables import Record, RecordTable
from distill.project.errors import DataError
from distill.project.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource(Settings):
    """A data set of the Hugging Face hub at one commit."""

    id: Annotated[str, Field(min_length=1)]
    """Its name, e.g. `databricks/databricks-dolly-15k`."""
    revision: str
    """The full commit hash: a branch or tag can move, and the same settings would then give other data."""
    split: str = "train"
    """The split to read."""
    config: str | None = None
    """The configuration to read, if it has several."""

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str) -> str:
        if not _COMMIT.fullmatch(revision):
            raise ValueError("must be pinned: the 40 digits of a commit, from the data set's page on the hub")
        return revision

    def __str__(self) -> str:
        return f"{self.id}@{self.revision[:8]} ({self.split})"


class Source(Settings):
    """Exactly one of a local file and a hub data set."""

    path: str | None = None
    """A `.jsonl`, `.jsonl.xz`, `.json` or `.parquet` file: absolute, or relative to where the data lies."""
    hub: HubSource | None = None
    """A data set of the hub."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Number of first rows to read; null reads all."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` and `hub`")
        return self


def locate(path: str, base: Path) -> Path:
    """The file of a path in the settings; a relative path starts in `base`, or beside a `base` that is a file."""
    return (base.parent if base.is_file() else base) / path


def read_source(source: Source, base: Path) -> RecordTable:
    """Read a source. Raises: DataError (file missing or unreadable, hub out of reach, no row in it)."""
    if source.hub is not None:
        table = _read_hub(source.hub, source.limit)
    else:
        assert source.path is not None  # the settings hold exactly one of the two
        table = _read_file(locate(source.path, base), source.limit)
    if not table.records and not table.bad:
        raise DataError(f"{table.name} has no rows; point to a file or split that has some")
    return table


def _read_file(path: Path, limit: int | None) -> RecordTable:
    if not path.exists():
        raise DataError(f"{path} does not exist; correct the path or put the file there")
    if path.name.endswith((".jsonl", ".jsonl.xz")):
        return read_json_lines(path, limit)
    if path.suffix == ".json":
        return read_json_array(path, limit)
    if path.suffix == ".parquet":
        return _read_parquet(path, limit)
    raise DataError(f"{path} is of no kind that can be read; give .jsonl, .jsonl.xz, .json or .parquet")


def _read_parquet(path: Path, limit: int | None) -> RecordTable:
    import datasets
    import pyarrow

    try:
        # Streaming reads the file where it lies; otherwise `datasets` would keep a copy in its cache.
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        return _as_table(str(path), rows, limit)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = _first_line(error)
        raise DataError(f"{path} is no readable Parquet file ({reason}); write it again") from None


def _read_hub(hub: HubSource, limit: int | None) -> RecordTable:
    import datasets
    from httpx import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    # A cache for each revision: without it, `datasets` offline takes whichever revision was cached last.
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "pinned" / hub.revision
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(
            hub.id, name=hub.config, split=hub.split, revision=hub.revision, cache_dir=str(cache)
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"{hub} is not there ({_first_line(error)}); correct its id and revision") from None
    except (ConnectionError, TransportError, HfHubHTTPError) as error:
        raise DataError(
            f"the hub is out of reach for {hub} ({_first_line(error)}); "
            "go online and unset HF_HUB_OFFLINE, or fetch the data by hand and give its `path` instead"
        ) from None
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # ValueError: no such split or configuration; RuntimeError: a data set that is a program.
        raise DataError(
            f"{hub} gives no rows ({_first_line(error)}); correct `split` and `config`, "
            "or fetch the data by hand and give its `path` instead"
        ) from None
    return _as_table(str(hub), rows, limit)


def _as_table(name: str, rows: Iterable[dict[str, Any]], limit: int | None) -> RecordTable:
    taken = islice(rows, limit)
    return RecordTable(name, "row", [Record(number, dict(row)) for number, row in enumerate(taken, start=1)], [])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
