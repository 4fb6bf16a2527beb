"""Sampled responses with the divergence between student q and teacher p at each token, and their means.

Written once by the stage that runs the models (`divergence.py`); reading them needs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.project.errors import DataError
from distill.project.files import replace_file
from distill.project.randomness import key
from distill.scoring.names import REFERENCE_METHOD
from distill.scoring.statistics import (
    Array,
    compare_statistic,
    comparison_entry,
    interval_entry,
    ratio,
    statistic_interval,
)

Source = Literal["own", "teacher"]
Direction = Literal["reverse_kl", "forward_kl"]

_DIGITS = 4
_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.int32()),
        ("seed", pa.int64()),
        ("reverse_kl", pa.list_(pa.float32())),
        ("forward_kl", pa.list_(pa.float32())),
    ]
)


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

# The two that the literature calls reverse and forward KL first, then the crossed ones.
QUANTITIES: dict[str, tuple[Source, Direction]] = {
    "reverse_kl": ("own", "reverse_kl"),
    "forward_kl": ("teacher", "forward_kl"),
    "reverse_kl_on_teacher_samples": ("teacher", "reverse_kl"),
    "forward_kl_on_own_samples": ("own", "forward_kl"),
}


def write_traces(path: Path, traces: Mapping[str, Traces]) -> None:
    """Write the traces of every method as one Parquet file."""
    rows = [
        {"method": method, "source": source, **asdict(trace)}
        for method, by_source in traces.items()
        for source, each in by_source.items()
        for trace in each
    ]
    with replace_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), aside)


def read_traces(path: Path) -> dict[str, Traces]:
    """The traces of every method. Raises: DataError when there is no such file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `dvc repro` to make it")
    traces: dict[str, dict[Source, list[Trace]]] = {}
    for row in pq.read_table(path).to_pylist():
        method, source = row.pop("method"), row.pop("source")
        traces.setdefault(method, {"own": [], "teacher": []})[source].append(Trace(**row))
    return dict(traces)


def nats_and_tokens(traces: Sequence[Trace], direction: Direction) -> Array:
    """Sums over the samples of each prompt, [N, 2]: nats of the divergence, and tokens."""
    sums = np.zeros((1 + max(trace.prompt for trace in traces), 2))
    for trace in traces:
        values = trace.reverse_kl if direction == "reverse_kl" else trace.forward_kl
        sums[trace.prompt] += (sum(values), len(values))
    return sums


def summarize(traces: Mapping[str, Traces], seed: int) -> dict[str, Any]:
    """`models`: nats a token of each method for each of `QUANTITIES`; `against`: MiniLLM against each.

    Means with their 95 % interval over prompts and their std over sampling seeds.
    """
    models = {method: _summarize_one(by_source, seed) for method, by_source in traces.items()}
    against: dict[str, Any] = {}
    for method in traces:
        if REFERENCE_METHOD in traces and method != REFERENCE_METHOD:
            against[method] = {
                name: comparison_entry(
                    compare_statistic(
                        nats_and_tokens(traces[REFERENCE_METHOD][source], direction),
                        nats_and_tokens(traces[method][source], direction),
                        ratio,
                        key(seed, "divergence comparison", method, name),
                        lower_is_better=True,
                    )
                )
                for name, (source, direction) in QUANTITIES.items()
            }
    return {"models": models, "against": against}


def _summarize_one(traces: Traces, seed: int) -> dict[str, Any]:
    found = {}
    for name, (source, direction) in QUANTITIES.items():
        sums = nats_and_tokens(traces[source], direction)
        low, high = statistic_interval(sums, ratio, key(seed, "divergence interval", name))
        by_seed = [
            float(ratio(nats_and_tokens([t for t in traces[source] if t.seed == s], direction).sum(axis=0)))
            for s in sorted({trace.seed for trace in traces[source]})
        ]
        found[name] = {
            **interval_entry(float(ratio(sums.sum(axis=0))), (low, high)),
            "std": round(stdev(by_seed) if len(by_seed) > 1 else 0.0, _DIGITS),
        }
    return found
