"""The source of a model, checked without loading it: its shape, and whether its files are here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from distill.models.origins import require_weights
from distill.models.settings import ModelSettings
from distill.models.stored import configuration, stored_tensors
from distill.preflight.decoding import undecodable
from distill.preflight.findings import Finding
from distill.preflight.shapes import Shape, known_shape, shape_of
from distill.project.errors import ModelError, SettingsError
from distill.project.network import connection
from distill.project.references import Reference

_SECONDS = 5.0
_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class PlannedModel:
    """A model before it is loaded."""

    name: str
    shape: Shape | None
    where: Literal["fresh", "here", "hub", "missing"]
    """Made by this project, on this disk, to be fetched, or a missing folder."""
    folder: Path | None = None
    """Of its config.json, if that is here."""


def origin_of(settings: ModelSettings, vocabulary: int, environment: Mapping[str, str]) -> PlannedModel:
    """The origin that a profile's model section names; `vocabulary` is that of the family's tokenizer."""
    if settings.init is not None:
        return PlannedModel("fresh", _shape({"vocab_size": vocabulary, **settings.init}, None), "fresh")
    assert settings.source is not None  # the settings hold exactly one of the two
    whole = reference_origin(settings.source, environment)
    if whole.shape is None or not settings.is_cut:
        return whole
    kept = settings.kept_layers(whole.shape.layers)
    return replace(
        whole, name=f"{whole.name}, {len(kept)} of {whole.shape.layers} layers", shape=whole.shape.cut(len(kept))
    )


def layer_fault(settings: ModelSettings, environment: Mapping[str, str]) -> str | None:
    """Why a source cannot be cut as the settings say; None where it can, or nobody knows its layers yet."""
    if settings.source is None or not settings.is_cut:
        return None
    shape = reference_origin(settings.source, environment).shape
    if shape is None:
        return None
    kept = settings.kept_layers(shape.layers)
    if not kept:
        return f"none of the {shape.layers} layers would be left; keep one at least"
    if kept[-1] >= shape.layers:
        return f"{settings.source} has the layers 0 to {shape.layers - 1} and no layer {kept[-1]}; correct the number"
    return None


def reference_origin(reference: Reference, environment: Mapping[str, str]) -> PlannedModel:
    """The origin of a folder or a hub id."""
    folder = snapshot(reference, environment)
    if folder is not None and (folder / "config.json").is_file():
        # Empty where it cannot be read, which the stage that loads it says.
        config = configuration(Reference(path=str(folder))) or None
        whole = any(folder.glob("*.safetensors"))
        shape = _shape(config, counted_parameters(folder))
        where: Literal["here", "hub", "missing"] = "here" if whole else "hub" if reference.hub else "missing"
        return PlannedModel(str(reference), shape, where, folder)
    if reference.path is not None:
        return PlannedModel(str(reference), None, "missing")
    return PlannedModel(str(reference), known_shape(reference.name), "hub")


def _shape(config: object, counted: int | None) -> Shape | None:
    """The shape, None where nobody can tell: a stage may well train what cannot be estimated."""
    if not isinstance(config, Mapping) or "model_type" not in config:
        return None
    try:
        return shape_of(config, counted)
    except Exception:  # noqa: BLE001  transformers' own classes refuse a value in a way of their own
        return None


def counted_parameters(folder: Path) -> int | None:
    """The numbers that the safetensors files of a folder hold; None where some are absent, or packed in integers."""
    tensors = stored_tensors(folder).values()
    if any(not kind.startswith(("F", "BF")) for kind, _ in tensors):
        return None
    return sum(prod(shape) for _, shape in tensors) or None


def snapshot(reference: Reference, environment: Mapping[str, str]) -> Path | None:
    """The folder of a reference's files: its own, or the one in the hub's cache; None without either."""
    if reference.path is not None:
        return Path(reference.path)
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache/huggingface")
    cache = Path(environment.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{reference.name.replace('/', '--')}"
    named = folder / "refs" / str(reference.revision)
    commit = named.read_text().strip() if named.is_file() else str(reference.revision)
    found = folder / "snapshots" / commit
    return found if found.is_dir() else None


def vocabulary_size(folder: Path, otherwise: int) -> int:
    """The number of tokens of a saved tokenizer; `otherwise` before there is one."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return otherwise
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    ids = [int(token["id"]) for token in content.get("added_tokens", [])]
    return max(len(content["model"]["vocab"]), *(number + 1 for number in ids), 0)


def origin_findings(origins: Mapping[str, PlannedModel], environment: Mapping[str, str], ask: bool) -> list[Finding]:
    """Whether every model (role → origin) can be had; with `ask` the hub is asked, for five seconds."""
    found = [
        Finding("stop", role, _refusal(Path(origin.name)))
        for role, origin in origins.items()
        if origin.where == "missing"
    ]
    unknown = [role for role, origin in origins.items() if origin.shape is not None and not origin.shape.exact]
    found += [Finding("ok", role, "an architecture unknown to the estimates, taken for LLaMA's") for role in unknown]
    unread = [role for role, origin in origins.items() if origin.shape is None and origin.where in ("fresh", "here")]
    found += [Finding("warn", role, "its shape cannot be read, so nothing is estimated") for role in unread]
    if ask:
        # The shipped architectures are known; another one takes seconds.
        look = {role: o.folder for role, o in origins.items() if o.folder and not (o.shape and o.shape.exact)}
        faults = {role: undecodable(Reference(path=str(folder))) for role, folder in look.items()}
        found += [Finding("stop", role, fault) for role, fault in faults.items() if fault is not None]
    wanted = sorted({origin.name for origin in origins.values() if origin.where == "hub"})
    if not wanted:
        return [*found, Finding("ok", "hub", "nothing to fetch")]
    names = ", ".join(wanted)
    if environment.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        fix = "unset HF_HUB_OFFLINE, or put the files into the hub's cache"
        return [*found, Finding("warn", "hub", f"offline, and not in its cache: {names}; {fix}")]
    if not ask:
        return [*found, Finding("ok", "hub", f"to be fetched: {names}")]
    if _answers(environment.get("HF_ENDPOINT") or _HUB):
        return [*found, Finding("ok", "hub", f"within reach; to be fetched: {names}")]
    text = f"out of reach, and not in its cache: {names}; go online, or fetch them elsewhere and copy the cache"
    return [*found, Finding("warn", "hub", text)]


def _refusal(folder: Path) -> str:
    """Why a folder holds no model, as the stage says it."""
    try:
        require_weights(folder)
    except ModelError as error:
        return str(error)
    return f"{folder} holds no model (config.json, *.safetensors); correct the path"


def loading_findings(sources: Mapping[str, Reference], environment: Mapping[str, str]) -> list[Finding]:
    """One finding for each model (who → source) on this disk that a stage could not load; tried without its numbers."""
    from distill.models.loading import rehearse

    found = []
    for who, source in sources.items():
        folder = snapshot(source, environment)
        if folder is None or not folder.exists():
            continue
        try:
            rehearse(source, cached=True)
        except ModelError as error:
            found.append(Finding("stop", who, str(error)))
    return found


def _answers(url: str) -> bool:
    from httpx import HTTPError, head

    try:
        return not head(url, timeout=_SECONDS, follow_redirects=True, **connection(url)).is_server_error
    except (HTTPError, SettingsError):  # no proxy that can be used reaches no hub either
        return False
