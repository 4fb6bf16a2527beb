"""Rows of Parquet and Arrow files: only the columns that are asked for are read, and nothing else is decoded."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.data.tables import Record, RecordTable
from distill.project.errors import DataError

if TYPE_CHECKING:
    import pyarrow

_METADATA = b"huggingface"


def read_parquet(path: Path, limit: int | None, wanted: Collection[str] | None) -> RecordTable:
    """Read the `wanted` columns of a Parquet file, or all as they lie. Raises: DataError when the file is damaged."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = _chosen(schema, wanted)
            batches = file.iter_batches(batch_size=1024, columns=columns) if columns else ()
            features = None if wanted is None else _features(schema, columns)
            return _table(path, schema, columns, features, batches, file.metadata.num_rows, limit)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file ({_reason(error)}); write it again") from None


def read_arrow(path: Path, limit: int | None, wanted: Collection[str] | None) -> RecordTable:
    """Read the `wanted` columns of an Arrow file or stream, or all as they lie. Raises: DataError for damage."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                table = pyarrow.ipc.open_file(source).read_all()
            except pyarrow.ArrowInvalid:
                source.seek(0)
                table = pyarrow.ipc.open_stream(source).read_all()
            columns = _chosen(table.schema, wanted)
            batches = table.select(columns).to_batches(max_chunksize=1024) if columns else ()
            features = None if wanted is None else _features(table.schema, columns)
            return _table(path, table.schema, columns, features, batches, table.num_rows, limit)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Arrow file ({_reason(error)}); write it again") from None


def _chosen(schema: pyarrow.Schema, wanted: Collection[str] | None) -> list[str]:
    return [name for name in schema.names if wanted is None or name in wanted]


def _table(
    path: Path,
    schema: pyarrow.Schema,
    columns: list[str],
    features: Any,
    batches: Iterable[pyarrow.RecordBatch],
    count: int,
    limit: int | None,
) -> RecordTable:
    shown = count if limit is None else min(count, limit)
    contents = _contents(batches, features, shown) if columns else ({} for _ in range(shown))
    records = [Record(number, content) for number, content in enumerate(contents, start=1)]
    return RecordTable(str(path), "row", records, [], tuple(schema.names))


def _contents(batches: Iterable[pyarrow.RecordBatch], features: Any, count: int) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for row in batch.slice(0, count).to_pylist():
            yield row if features is None else features.decode_example(row)
        count -= min(count, batch.num_rows)
        if not count:
            return


def _features(schema: pyarrow.Schema, columns: list[str]) -> Any:
    """What `datasets` noted of these columns, such as that their text is JSON; None where it noted nothing."""
    noted = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
    kinds = (noted.get("info") or {}).get("features") or {}
    if not set(columns) <= kinds.keys():
        return None
    from datasets import Features

    return Features.from_dict({column: kinds[column] for column in columns})


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
