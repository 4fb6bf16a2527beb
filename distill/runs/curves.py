"""Training curves: one TSV file a quantity, `step<TAB>value`, which DVC draws and any tool reads."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from distill.project.files import fresh_dir

_DIGITS = 6


class Curves:
    """Values by name and step; a plain dictionary so that an unfinished run can store and continue it."""

    def __init__(self, stored: dict[str, list[list[float]]] | None = None) -> None:
        """Continue `stored` curves, or begin new ones."""
        self.points: dict[str, list[list[float]]] = defaultdict(list, stored or {})

    def add(self, step: int, **values: float) -> None:
        """Note values at an optimiser step."""
        for name, value in values.items():
            self.points[name].append([step, float(f"{value:.{_DIGITS}g}")])

    def last(self, name: str) -> float | None:
        """The newest value of a quantity; None without one."""
        return self.points[name][-1][1] if self.points.get(name) else None

    def write(self, folder: Path) -> None:
        """Write every quantity as `<name>.tsv`, the folder as a whole or not at all."""
        with fresh_dir(folder) as aside:
            for name, points in sorted(self.points.items()):
                lines = [f"step\t{name}", *(f"{int(step)}\t{value:.{_DIGITS}g}" for step, value in points)]
                (aside / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def state(self) -> dict[str, Any]:
        """The argument for `Curves(stored)`."""
        return dict(self.points)
