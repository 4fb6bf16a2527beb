"""Sources of data: a local file or a pinned data set of the hub, read into a `RecordTable`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from distill.data.columnar import read_arrow, read_parquet
from distill.data.delimited import read_delimited
from distill.data.jsonl import explain, read_json_array, read_json_lines
from distill.data.opening import PACKED
from distill.data.tables import Record, RecordTable
from distill.project.errors import DataError, DistillError
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
    """A file of rows, by its suffix `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.arrow`: absolute, or relative to
    where the data lies. All but the last two may be packed (`.gz`, `.xz`, `.bz2`, `.zst`)."""
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
    return (base.parent if base.is_file() else base) / os.path.expanduser(path)  # noqa: PTH111  (no HOME is no fault)


def read_source(source: Source, base: Path, wanted: Collection[str] | None = None) -> RecordTable:
    """Read a source; `wanted` are the columns to read where the rest can be left unread. Without it all are read, and
    nothing but text is decoded.

    Raises: DataError (file missing or unreadable, hub out of reach, no row in it).
    """
    name = source.path if source.hub is None else str(source.hub)
    try:
        if source.hub is not None:
            table = _read_hub(source.hub, source.limit, wanted)
        else:
            assert source.path is not None  # the settings hold exactly one of the two
            name = str(locate(source.path, base))
            table = _read_file(Path(name), source.limit, wanted)
    except DistillError:
        raise
    # A foreign file meets several libraries, and each refuses it in ways of its own.
    except Exception as error:  # noqa: BLE001
        reason = explain(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{name} cannot be read ({_first_line(reason)}); mend it, or write it anew as .jsonl") from None
    if not table.records and not table.bad:
        raise DataError(f"{table.name} has no rows; point to a file or split that has some")
    return table


def _read_file(path: Path, limit: int | None, wanted: Collection[str] | None) -> RecordTable:
    if not path.exists():
        raise DataError(f"{path} does not exist; correct the path or put the file there")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it")
    plain = Path(path.stem) if path.suffix.lower() in PACKED else path
    kind = plain.suffix.lower()
    if kind in {".parquet", ".pq", ".arrow", ".feather", ".ipc"}:
        if plain is not path:
            raise DataError(f"{path} is packed, which only text can be here; unpack it and name {plain.name}")
        return (read_parquet if kind in {".parquet", ".pq"} else read_arrow)(path, limit, wanted)
    if kind in {".jsonl", ".ndjson"}:
        return read_json_lines(path, limit)
    if kind == ".json":
        return read_json_array(path, limit)
    if kind in {".csv", ".tsv"}:
        return read_delimited(path, limit, "\t" if kind == ".tsv" else None)
    if kind == ".zip":
        raise DataError(f"{path} is an archive; unpack it and name a file in it")
    raise DataError(
        f"{path} is of no kind that can be read; give .jsonl, .json, .csv, .tsv, .parquet or .arrow "
        f"({', '.join(PACKED)} behind one of the first four is read too)"
    )


def _read_hub(hub: HubSource, limit: int | None, wanted: Collection[str] | None) -> RecordTable:
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
    names = tuple(rows.column_names)
    columns = [name for name in names if wanted is None or name in wanted]
    taken = (
        islice(rows.select_columns(columns), limit)
        if columns
        else ({} for _ in range(min(len(rows), limit or len(rows))))
    )
    return RecordTable(str(hub), "row", [Record(i, dict(row)) for i, row in enumerate(taken, start=1)], [], names)


def _first_line(error: Exception | str) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
