"""Evidence of a run that diverged: the batch at hand as text, and the best weights so far.

`.resume/<stage>.diverged/` holds `fault.json`, `batch.jsonl` (one row a line, text beside the token ids) and the best
checkpoint as `best/`, if there is any. Neither DVC nor a cleared resume state removes it, only a sound run of the
stage.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.project.errors import DivergedError
from distill.project.files import fresh_dir, write_json, write_jsonl
from distill.runs.resume import RESUME_FOLDER

_IDS = "_ids"


class Evidence:
    """A context manager: a `DivergedError` leaves its evidence, a sound end removes older evidence."""

    def __init__(
        self, stage: str, tokenizer: PreTrainedTokenizerBase, best: Callable[[Path], None] | None = None
    ) -> None:
        """`best` writes the best checkpoint so far into the folder it is given."""
        self.folder = RESUME_FOLDER / f"{stage}.diverged"
        self.tokenizer, self.best = tokenizer, best
        self.kept = False

    def keep(self, fault: DivergedError) -> None:
        """Write the evidence, as a whole or not at all, and print its folder."""
        with fresh_dir(self.folder) as aside:
            write_json(aside / "fault.json", {"fault": str(fault)})
            write_jsonl(aside / "batch.jsonl", (_writable(self._read(row)) for row in fault.rows))
            if self.best is not None:
                self.best(aside / "best")
        self.kept = True
        what = "the batch at hand" if self.best is None else "the batch at hand and the best checkpoint so far"
        print(f"{what}: {self.folder}", file=sys.stderr)

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        """The text of every list of token ids, before the row's own entries."""
        ids = {name.removesuffix(_IDS): value for name, value in row.items() if name.endswith(_IDS)}
        return {name: self.tokenizer.decode(value) for name, value in ids.items()} | row

    def __enter__(self) -> Evidence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DivergedError):
            self.keep(error)
        elif error is None and not self.kept:
            shutil.rmtree(self.folder, ignore_errors=True)


def _writable(value: Any) -> Any:
    """The same with "nan" and "inf" as text, which JSON has no numbers for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_writable(v) for v in value]
    if isinstance(value, dict):
        return {name: _writable(v) for name, v in value.items()}
    return value
