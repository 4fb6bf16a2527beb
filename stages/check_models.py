"""Whether the models that a profile names are there and share the family's tokenizer: seconds, before hours.

What cannot be looked at now (the hub is out of reach) is left to the stage `base`, which looks again before it trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from distill.models.origins import origin, require_weights
from distill.project.errors import ModelError
from distill.project.references import ModelReference, Reference
from distill.text.settings import TokenizerSettings


def family_tokenizer(family: str, settings: TokenizerSettings) -> Reference | None:
    """Where a family's tokenizer can be read now; None for one that is still to be learned."""
    if settings.source is not None:
        return settings.source
    learned = Path("data") / family / "tokenizer"
    return Reference(path=str(learned)) if learned.is_dir() else None


def unfit_models(sources: Mapping[str, ModelReference], family: Reference | None) -> list[str]:
    """One fault for each place whose model is not there, is pickled, or has another tokenizer than the family."""
    if not sources:
        return []
    # Only now: transformers takes seconds to import, and most families learn their models here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    faults = []
    shared = None
    try:
        shared = None if family is None else load_tokenizer(family)
    except ModelError as error:
        if family is not None and family.path is not None:
            faults.append(f"recipe.tokenizer: {error}")
    for place, source in sources.items():
        try:
            base = origin(source).base
            if base.path is not None:
                require_weights(Path(base.path))
            own = load_tokenizer(base)
        except ModelError as error:
            if source.path is not None:
                faults.append(f"{place}: {error}")
            continue
        try:
            if shared is not None:
                require_same_tokenizer(shared, own)
        except ModelError as error:
            faults.append(f"{place}: {error}")
    return faults
