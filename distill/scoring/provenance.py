"""Where the numbers come from: settings, hashes of the data, code revision, versions, device, time and cost.

All of it is read from what the stages left: `meta.json` in each checkpoint, `<what>.run.json` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.project.files import read_json, sha256_file
from distill.project.revision import code_revision

_UNCOUNTED = ("passes_per_rollout_token",)


@dataclass(frozen=True)
class RunEntry:
    """One stage that trained or sampled: what it was and what it took."""

    name: str
    """`<who>/<what>`"""
    seconds: float
    cpu_seconds: float
    memory_mib: float
    """Largest resident memory, or largest GPU memory where one was used."""
    device: str
    threads: int | None
    revision: str
    details: str
    """Throughput and passes of a run that keeps a ledger."""


@dataclass(frozen=True)
class DataFile:
    """One file the numbers rest on."""

    path: str
    sha256: str
    rows: int | None
    """Lines of a JSONL file."""


@dataclass(frozen=True)
class Provenance:
    """All of it."""

    revision: str
    """Of the checkout that made the report, empty outside git."""
    versions: Mapping[str, str]
    runs: tuple[RunEntry, ...]
    data: tuple[DataFile, ...]
    settings: Mapping[str, str]
    """params.yaml, then each checkpoint's settings as JSON text."""

    @property
    def seconds(self) -> float:
        """What all runs took together."""
        return sum(run.seconds for run in self.runs)


def read(root: Path) -> Provenance:
    """Everything below `root`; what a stage did not leave is absent."""
    runs = root / "runs"
    records = {path: read_json(path) for path in sorted(runs.glob("*/*.run.json"))}
    metas = {path.parent: read_json(path) for path in sorted(runs.glob("*/*/meta.json"))}
    versions: dict[str, str] = {}
    for record in records.values():
        versions.setdefault("python", record["python"])
    for meta in metas.values():
        versions |= meta.get("versions", {})
    return Provenance(
        revision=code_revision(root) or "",
        versions=versions,
        runs=tuple(_run(path, record) for path, record in records.items()),
        data=tuple(_data_files(root)),
        settings={
            "params.yaml": (root / "params.yaml").read_text(encoding="utf-8").strip(),
            **{folder.relative_to(runs).as_posix(): _settings(meta) for folder, meta in metas.items()},
        },
    )


def _settings(meta: Mapping[str, Any]) -> str:
    known = {name: meta[name] for name in ("seed", "settings", "prompt") if name in meta}
    return json.dumps(known, indent=1, ensure_ascii=False)


def _run(path: Path, record: Mapping[str, Any]) -> RunEntry:
    return RunEntry(
        name=f"{path.parent.name}/{path.name.removesuffix('.run.json')}",
        seconds=float(record["seconds"]),
        cpu_seconds=float(record["cpu_seconds"]),
        memory_mib=float(record.get("peak_cuda_mib") or record["peak_rss_mib"]),
        device=str(record["device"]),
        threads=record.get("threads"),
        revision=str(record.get("code_revision") or ""),
        details=_details(record.get("cost") or {}),
    )


def _details(cost: Mapping[str, Any]) -> str:
    phases = [
        f"{phase} {entry['seconds']:.0f} s"
        + (f" ({entry['tokens_per_second']:,.0f} tokens/s)" if entry.get("tokens_per_second") else "")
        for phase, entry in cost.items()
        if phase not in _UNCOUNTED
    ]
    passes = [f"{name.replace('_', ' ')} {value:g}" for name, value in cost.get(_UNCOUNTED[0], {}).items()]
    told = [", ".join(phases)] if phases else []
    return "; ".join([*told, *([f"passes a rollout token: {', '.join(passes)}"] if passes else [])])


def _data_files(root: Path) -> list[DataFile]:
    patterns = ("data/*/*.parquet", "data/*/tokenizer/tokenizer.json", "evaluation/*.jsonl", "labelled/*.jsonl")
    files = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    return [
        DataFile(
            path.relative_to(root).as_posix(),
            sha256_file(path),
            path.read_bytes().count(b"\n") if path.suffix == ".jsonl" else None,
        )
        for path in files
    ]
