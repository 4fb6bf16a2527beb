"""Short tables of the audits for the screen; the report files hold the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def draw_preparation(title: str, report: Mapping[str, Any]) -> Table:
    """The table of `distill.data.prepare.audit`'s report: a column for each split."""
    splits, duplicates = report["splits"], report["duplicates"]
    notes = {
        "again in the same split": {name: count["rows"] for name, count in duplicates["within"].items()},
        "also in train": _shared(duplicates, "train", "rows"),
        "also in valid": _shared(duplicates, "valid", "rows"),
        "prompt also in train": _shared(duplicates, "train", "prompts"),
        "unread by Rouge-L": _unread(splits),
        **_unused_turns(splits),
        "responses cut": {name: split.get("responses_cut", 0) for name, split in splits.items()},
        **_noted(splits),
        **_token_counts(splits, "prompt_tokens"),
        **_token_counts(splits, "response_tokens"),
    }
    if report["corpus"] is not None:
        splits = splits | {"corpus": report["corpus"]}
    return _draw(title, splits, notes)


def draw_evalset(name: str, report: Mapping[str, Any]) -> Table:
    """The table of `distill.data.evalset.audit_evalset`'s report."""
    notes = {
        "again in the set": {name: report["duplicates"]["rows"]},
        "with several references": {name: report["several_references"]},
        "without input": {name: report["without_input"]},
        "unread by Rouge-L": _unread({name: report}),
        **_unused_turns({name: report}),
    }
    return _draw(f"evaluation set {name}", {name: report}, notes)


def _draw(title: str, splits: Mapping[str, Any], notes: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for name in splits:
        table.add_column(name, justify="right")
    table.add_row("rows read", *(f"{split['read']:,}" for split in splits.values()))
    for reason in dict.fromkeys(reason for split in splits.values() for reason in split["left_out"]):
        counts = [split["left_out"].get(reason, {"count": 0})["count"] for split in splits.values()]
        if any(counts):
            table.add_row(f"  {reason.replace('_', ' ')}", *(f"−{n:,}" if n else "" for n in counts))
    table.add_row("rows kept", *(f"{split['kept']:,}" for split in splits.values()))
    for label, values in notes.items():
        # What was not found needs no line; the report file says it all.
        if any(values.values()):
            table.add_row(label, *(f"{values[name]:,}" if name in values else "" for name in splits))
    return table


def _unused_turns(splits: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    kinds = dict.fromkeys(kind for split in splits.values() for kind in split.get("unused", {}))
    return {
        f"{kind.replace('_', ' ')} unused": {
            name: split.get("unused", {}).get(kind, 0) for name, split in splits.items()
        }
        for kind in kinds
    }


def _shared(duplicates: Mapping[str, Any], first: str, kind: str) -> dict[str, int]:
    return {
        pair.removeprefix(f"{first}/"): shared[kind]["count"]
        for pair, shared in duplicates["across"].items()
        if pair.startswith(f"{first}/")
    }


def _noted(splits: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    reasons = dict.fromkeys(reason for split in splits.values() for reason in split.get("noted", {}))
    return {
        reason.replace("_", " "): {n: s["noted"][reason]["count"] for n, s in splits.items() if "noted" in s}
        for reason in reasons
    }


def _unread(splits: Mapping[str, Any]) -> dict[str, int]:
    return {name: split.get("rouge_cannot_read", {}).get("references", 0) for name, split in splits.items()}


def _token_counts(splits: Mapping[str, Any], key: str) -> dict[str, dict[str, int]]:
    counts = {name: split[key] for name, split in splits.items() if key in split}
    return {
        f"{key.replace('_', ' ')}, {statistic}": {name: round(count[statistic]) for name, count in counts.items()}
        for statistic in ("mean", "p95", "max")
    }
