"""A stage that its profile divides between two processes, as a person runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tiny_pipeline import MINI, ROOT, edit, start

pytest_plugins = ["tests.stage_fixtures"]


def distilled(project: Path) -> tuple[bytes, dict[str, list[list[float]]]]:
    """The weights that MiniLLM's stage comes to, and its curves."""
    process = start(project, sys.executable, "-m", "stages.minillm", "small", "minillm", PYTHONPATH=str(ROOT))
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    made = project / "runs/small/minillm"
    curves = {
        name: [
            [float(x) for x in row.split()] for row in Path(f"{made}.curves/{name}.tsv").read_text().splitlines()[1:]
        ]
        for name in ("reverse_kl", "response_tokens", "valid_loss")
    }
    return (made / "model.safetensors").read_bytes(), curves


@pytest.mark.slow
def test_minillm_in_two_processes_with_a_whole_teacher_and_a_divided_one(project: Path) -> None:
    _, alone = distilled(project)
    edit(project / MINI, "hardware.processes", 2)
    whole, together = distilled(project)
    for name, rows in alone.items():
        assert [row[0] for row in together[name]] == [row[0] for row in rows], name
        assert [row[1] for row in together[name]] == pytest.approx([row[1] for row in rows], rel=1e-4), name
    edit(project / MINI, "hardware.teacher", {"shard": True})
    assert distilled(project) == (whole, together)
