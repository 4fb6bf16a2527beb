"""Reference to a model or tokenizer: a local folder, or a hub id pinned to a commit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from distill.project.errors import ModelError
from distill.project.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PINNED = re.compile(r"([\w.-]+/[\w.-]+)@(\S+)")


class Reference(Settings):
    """A `save_pretrained` folder or a hub repository, exactly one of the two.

    In short: `<folder>`, or `<owner>/<name>@<commit>`.
    """

    hub: str | None = None
    """Hub id, e.g. `openai-community/gpt2`."""
    revision: str | None = None
    """The 40 digits of a commit of the hub repository."""
    unpinned: bool = False
    """Accept a branch or tag as `revision`: it may move, and the same settings then give another model."""
    path: str | None = None
    """Local folder written by `save_pretrained`; `~` stands for the home folder."""

    @field_validator("path")
    @classmethod
    def _at_home(cls, path: str | None) -> str | None:
        return None if path is None else os.path.expanduser(path)  # noqa: PTH111  (no HOME is no fault)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, content: Any) -> Any:
        if not isinstance(content, str):
            return content
        pinned = _PINNED.fullmatch(content)
        return {"hub": pinned[1], "revision": pinned[2]} if pinned else {"path": content}

    @model_validator(mode="after")
    def _exactly_one(self) -> Reference:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give exactly one of `hub` and `path`")
        if self.hub is not None and self.revision is None:
            raise ValueError("a hub id needs a pinned `revision` (a commit hash)")
        if self.revision is not None and not self.unpinned and not _COMMIT.fullmatch(self.revision):
            raise ValueError(
                f"`revision: {self.revision}` may move; pin the 40 digits that `git ls-remote "
                f"https://huggingface.co/{self.hub}` prints, or write `unpinned: true` beside it"
            )
        return self

    @property
    def name(self) -> str:
        """The argument for `from_pretrained`."""
        return self.hub or self.path or ""

    def __str__(self) -> str:
        return f"{self.hub}@{self.revision}" if self.hub else str(self.path)


class ModelReference(Reference):
    """A model, with or without a LoRA adapter."""

    adapter: Reference | None = None
    """Folder or hub id of a peft adapter (`adapter_config.json`, `adapter_model.safetensors`) of this model."""

    @property
    def base(self) -> Reference:
        """The same without the adapter."""
        return Reference.model_validate(self.model_dump(exclude={"adapter"}))

    def __str__(self) -> str:
        whole = f"{self.hub}@{self.revision}" if self.hub else str(self.path)
        return whole if self.adapter is None else f"{whole} with the adapter {self.adapter}"


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or the only one of a folder without other weights; else None."""
    if path.is_file():
        with path.open("rb") as stream:
            return path if stream.read(4) == b"GGUF" else None
    files = sorted(path.glob("*.gguf"))
    return files[0] if len(files) == 1 and not any(path.glob("*.safetensors")) else None


def require_folder(place: Path) -> None:
    """Refuse a GGUF file, a folder with nothing else, and any other file. Raises: ModelError."""
    file = gguf_file(place)
    if file is None and place.is_dir() and any(place.glob("*.gguf")) and not any(place.glob("*.safetensors")):
        file = place / "FILE.gguf"
    if file is not None:
        raise ModelError(
            f"{place} is a model in GGUF, which cannot be trained on as it is; convert it once and name the new "
            f"folder: python -m commands.convert {file} {file.with_suffix('').name}"
        )
    if place.is_file():
        raise ModelError(f"{place} is a file, and a model is a folder of `save_pretrained`; name its folder")
