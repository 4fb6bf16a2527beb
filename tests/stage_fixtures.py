"""A small project in a folder of its own, whose stages run inside the test's process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stages import base, prepare
from tests.tiny_pipeline import in_folder, write_settings


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline up to the bases of teacher and student, and an `init` that is the student's base."""
    root = tmp_path_factory.mktemp("prepared")
    write_settings(root)
    run = in_folder(root)
    run(prepare.main, "mini")
    run(base.main, "mini")
    run(base.main, "small")
    for folder in ("mini/teacher", "small/init"):
        shutil.copytree(root / "runs" / folder.split("/")[0] / "base", root / "runs" / folder)
    return root


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(prepared, tmp_path / "project"))
