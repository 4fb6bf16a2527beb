"""Where a model or tokenizer comes from: a local folder, or a hub id pinned to a revision."""

from __future__ import annotations

from pydantic import model_validator

from distill.project.settings import Settings


class Reference(Settings):
    """A `save_pretrained` folder or a hub repository, exactly one of the two."""

    hub: str | None = None
    """Hub id, e.g. `openai-community/gpt2`."""
    revision: str | None = None
    """Commit, tag or branch of the hub repository; a commit keeps a run reproducible."""
    path: str | None = None
    """Local folder written by `save_pretrained`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Reference:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give exactly one of `hub` and `path`")
        if self.hub is not None and self.revision is None:
            raise ValueError("a hub id needs a pinned `revision` (a commit hash)")
        return self

    @property
    def name(self) -> str:
        """What `from_pretrained` takes."""
        return self.hub or self.path or ""

    def __str__(self) -> str:
        return f"{self.hub}@{self.revision}" if self.hub else str(self.path)
