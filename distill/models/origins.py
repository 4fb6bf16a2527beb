"""Parts of a checkpoint: the weights, and the LoRA adapter on top of them.

A folder of this project is one of four things: whole weights; whole weights with the adapter that was merged into
them beside (`adapter/`); a pointer to weights elsewhere (`reference.json`); a pointer with an adapter beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.project.errors import ModelError
from distill.project.files import read_json
from distill.project.references import ModelReference, Reference, require_folder

REFERENCE_FILE = "reference.json"
ADAPTER_FOLDER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Origin:
    """Weights to load, and an adapter to add to them."""

    base: Reference
    adapter: Reference | None = None


def origin(source: Reference | Path) -> Origin:
    """Weights and adapter to load for the model `source`; merged weights are taken as they are.

    Raises: ModelError for a student or teacher without a base.
    """
    if isinstance(source, ModelReference) and source.adapter is not None:
        below = origin(source.base)
        if below.adapter is not None:
            raise ModelError(f"{source.base} already has an adapter ({below.adapter}); name only one of the two")
        return Origin(below.base, source.adapter)
    reference = source if isinstance(source, Reference) else Reference(path=str(source))
    if reference.path is None or not (Path(reference.path) / REFERENCE_FILE).is_file():
        return Origin(reference)
    folder = Path(reference.path)
    content = read_json(folder / REFERENCE_FILE, shape=(dict, type(None)))
    if content is None:
        raise ModelError(
            f"{folder} stands for no model, because the profile gives none (`model: null`); give the model to train "
            "from, or a finished one for each method (`from:`)"
        )
    below = origin(ModelReference.model_validate(content))
    if not (folder / ADAPTER_FOLDER).is_dir():
        return below
    return Origin(below.base, Reference(path=str(folder / ADAPTER_FOLDER)))


def unmerged_origin(folder: Path) -> Origin:
    """As `origin`, but merged weights count as base and adapter if the base comes from outside this pipeline."""
    config = folder / ADAPTER_FOLDER / ADAPTER_CONFIG
    if (folder / REFERENCE_FILE).is_file() or not config.is_file():
        return origin(folder)
    known = read_json(config)
    name, revision = known.get("base_model_name_or_path"), known.get("revision")
    if name is None:
        return origin(folder)
    base = Reference(hub=name, revision=revision, unpinned=True) if revision else Reference(path=name)
    return Origin(base, Reference(path=str(folder / ADAPTER_FOLDER)))


def require_weights(folder: Path) -> None:
    """Refuse a folder without a model, or with pickled weights alone: these can run code when they are read.

    Raises: ModelError.
    """
    require_folder(folder)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter and no model; name both: {{path: <folder of its model>, adapter: {folder}}}"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model (no config.json); run `dvc repro` for a stage's own model, correct the path, "
            "or write a hub id with its commit: owner/name@<40 digits>"
        )
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                raise ModelError(
                    f"{file} is Git LFS's pointer to the weights, not the weights; fetch them by `git lfs pull` there"
                )
    if not any(folder.glob("*.safetensors")) and (pickled := sorted(folder.glob("*.bin"))):
        raise ModelError(
            f"{folder} holds its weights as pickles ({pickled[0].name}), which can run code when they are read; "
            "convert them once, if you trust them, by the command in docs/models.md, and name the new folder"
        )
