"""The training stages as tests call them, by who and section alone: their blocks in dvc.yaml add the rest.

`in_folder(root)(sft.main, "small", "init")` runs `python -m stages.on_rows small init sft.py base` there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from stages import on_own_samples, on_rows


class Training:
    """One training command with what follows the section."""

    def __init__(self, stage: Callable[[], None], *rest: str) -> None:
        self.stage, self.rest = stage, rest

    def main(self) -> None:
        """As the stage's `main`."""
        sys.argv = [*sys.argv, *self.rest]
        self.stage()


sft = Training(on_rows.main, "sft.py", "base")
kd = Training(on_rows.main, "kd.py", "base")
seqkd = Training(on_rows.main, "sft.py", "base", "--teacher-samples")
minillm = Training(on_own_samples.main, "minillm")
