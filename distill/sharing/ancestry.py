"""The model that an export goes back to, as its own files name it: hub id, name and licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.models.stored import stored_file
from distill.project.references import ModelReference

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB = "https://huggingface.co/"
_UNSTATED = "not stated"


@dataclass(frozen=True)
class Ancestor:
    """A model from elsewhere."""

    name: str
    hub: str | None = None
    """Its id on the hub, or that of the model that its card names as its base."""
    licence: str = _UNSTATED
    local: bool = False
    """Whether it was read from a folder."""

    def told(self) -> str:
        """Name and licence in a sentence."""
        if not self.local:
            return f"`{self.name}` (licence: {self.licence})"
        base = f", made from `{self.hub}`" if self.hub else ""
        return f"the model `{self.name}` of a local folder{base} (licence: {self.licence})"


def ancestor_of(reference: ModelReference) -> Ancestor:
    """The model that a reference names, by the card beside it; no hub is asked."""
    card = read_front_matter(stored_file(reference.base, "README.md", cached=True))
    if reference.hub is not None:
        return Ancestor(reference.hub, reference.hub, licence_of(card))
    base = card.get("base_model")
    base = str(base[0] if isinstance(base, list) and base else base or "").removeprefix(_HUB)
    hub = base if _HUB_ID.fullmatch(base) else None
    # The folder's own name, never its path: that belongs to this machine.
    name = card.get("model_name") or Path(str(reference.path)).resolve().name
    return Ancestor(" ".join(str(name).split()), hub, licence_of(card), local=True)


def licence_of(card: Mapping[str, Any]) -> str:
    """The licence that a card states, by its own name where it is none of the hub's list."""
    stated = card.get("license_name") or card.get("license") or _UNSTATED
    return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)


def read_front_matter(path: Path | None) -> dict[str, Any]:
    """The YAML between the first two lines of dashes of a card; empty where there is none that can be read."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        content = None if found is None else YAML(typ="safe").load(found[1])
    except (YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        return {}
    return content if isinstance(content, dict) else {}
