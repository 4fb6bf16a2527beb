"""Whether a model can be decoded exactly, from its configuration alone: a small random model of its kind is probed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from distill.project.errors import ModelError
from distill.project.references import Reference


def undecodable(source: Reference, cached: bool = False) -> str | None:
    """The reason why no decode of a model is exact; None for one that can be decoded, or not be looked at now.

    With `cached` no hub is asked. A model that is sampled slowly is told of on stderr.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            source.name, revision=source.revision or "main", trust_remote_code=False, local_files_only=cached
        )
    except Exception:  # noqa: BLE001  what cannot be read is told by the one that loads it
        return None
    return _fault(config, str(source))


def undecodable_init(init: Mapping[str, Any]) -> str | None:
    """As `undecodable`, for a fresh model: a profile's `model.init`."""
    from transformers import AutoConfig

    settings = {name: value for name, value in init.items() if name != "model_type"}
    try:
        config = AutoConfig.for_model(str(init["model_type"]), **settings)
    except Exception:  # noqa: BLE001  told by the stage that makes it
        return None
    return _fault(config, str(init["model_type"]))


def _fault(config: Any, name: str) -> str | None:
    # Only now: torch takes seconds.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from distill.generation.probe import tell_slowness, way_of_config

    try:
        tell_slowness(name, way_of_config(config))
    except ModelError as error:
        return str(error)
    return None
