"""Sampled responses, and the divergence between student q and teacher p at each of their tokens, as files.

Written by the stages that run the models (`divergence.py`); reading them needs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from distill.project.errors import DataError
from distill.project.files import replace_file

Source = Literal["own", "teacher"]
Direction = Literal["reverse_kl", "forward_kl"]

_TRACES = pa.schema(
    [
        ("source", pa.string()),
        ("prompt", pa.int32()),
        ("seed", pa.int64()),
        # float32, as the divergences were computed: a wider column would hold no more digits.
        ("reverse_kl", pa.list_(pa.float32())),
        ("forward_kl", pa.list_(pa.float32())),
    ]
)
_SAMPLES = pa.schema([("prompt", pa.int32()), ("seed", pa.int64()), ("ids", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Trace:
    """One sampled response and the divergences at each of its T tokens, the end-of-sequence token included."""

    prompt: int
    seed: int
    reverse_kl: Sequence[float]
    """KL(q || p) at the prefix of each token, nats, [T]."""
    forward_kl: Sequence[float]
    """KL(p || q) at the prefix of each token, nats, [T]."""


Traces = Mapping[Source, Sequence[Trace]]
"""A student's own samples and the teacher's, for the same prompts and seeds."""

Samples = Mapping[int, Sequence[list[int]]]
"""Seed to the token ids of one response for each prompt."""


def write_traces(path: Path, traces: Traces) -> None:
    """Write the traces of one model as a Parquet file."""
    rows = [{"source": source, **asdict(trace)} for source, each in traces.items() for trace in each]
    with replace_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=_TRACES), aside)


def read_traces(path: Path) -> Traces:
    """The traces of one model. Raises: DataError when there is no such file."""
    # Both sources are there even where one of them has no rows.
    traces: dict[Source, list[Trace]] = {"own": [], "teacher": []}
    for row in _rows(path):
        traces[row.pop("source")].append(Trace(**row))
    return traces


def write_samples(path: Path, samples: Samples) -> None:
    """Write the responses of one model as a Parquet file."""
    # A response has no field for its prompt: its place among the responses of a seed is the prompt's number.
    rows = [
        {"prompt": prompt, "seed": seed, "ids": ids}
        for seed, responses in samples.items()
        for prompt, ids in enumerate(responses)
    ]
    with replace_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SAMPLES), aside)


def read_samples(path: Path) -> Samples:
    """The responses of one model. Raises: DataError when there is no such file."""
    samples: dict[int, list[list[int]]] = {}
    # Rows were written prompt after prompt, so appending puts each at its prompt's number.
    for row in _rows(path):
        samples.setdefault(row["seed"], []).append(row["ids"])
    return samples


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `dvc repro` to make it")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
