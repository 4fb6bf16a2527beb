"""Whether teacher and students share the family's tokenizer, as far as their files are on this disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill.preflight.findings import Finding
from distill.preflight.models import snapshot
from distill.project.errors import ModelError
from distill.project.references import Reference

_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def tokenizer_finding(sources: Mapping[str, Reference], environment: Mapping[str, str]) -> Finding:
    """Compare the tokenizers of `sources` (who → where its model or tokenizer comes from) with the family's."""
    folders = {who: snapshot(reference, environment) for who, reference in sources.items()}
    here = {who: folder for who, folder in folders.items() if folder is not None and _has_tokenizer(folder)}
    absent = sorted(set(sources) - set(here))
    if len(here) < 2:
        known = f"not here yet: {', '.join(absent)}" if absent else "one, learned from the training rows"
        return Finding("ok", "tokenizer", known)
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    first, *others = here
    try:
        loaded = {who: load_tokenizer(folder) for who, folder in here.items()}
        for who in others:
            require_same_tokenizer(loaded[first], loaded[who])
    except ModelError as error:
        return Finding("stop", "tokenizer", str(error))
    compared = f"{', '.join(here)} agree on {len(loaded[first])} tokens"
    return Finding("ok", "tokenizer", compared + (f"; not here yet: {', '.join(absent)}" if absent else ""))


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)
