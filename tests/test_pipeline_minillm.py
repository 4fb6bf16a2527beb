"""What MiniLLM's stage itself decides, in this process: memory, where the teacher is loaded, which runs go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from distill.on_policy import pair, process_memory
from distill.runs import resume
from tests.tiny_pipeline import MINI, SMALL, edit, in_folder
from tests.training_stages import minillm

pytest_plugins = ["tests.stage_fixtures"]


class SeenError(Exception):
    """What a test wanted to see has happened."""


def test_minillm_keeps_the_memory_that_it_frees(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(
        process_memory, "keep_freed_memory", lambda: told.append((project / "runs/small/minillm").exists())
    )
    in_folder(project)(minillm.main, "small", "minillm")
    assert told == [False]  # once, and before the work
    assert (project / "runs/small/minillm").exists()


def test_a_teacher_that_one_process_would_not_divide_is_loaded_where_it_works(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_pair(*given: Any) -> None:
        raise SeenError(given[-1])

    edit(project / MINI, "hardware.teacher", {"shard": True})
    monkeypatch.setattr(pair, "load_pair", load_pair)
    with pytest.raises(SeenError, match="None"):
        in_folder(project)(minillm.main, "small", "minillm")


def test_another_plain_text_is_another_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(lm_coef: float) -> str:
        edit(project / MINI, f"{SMALL}.minillm.lm_coef", lm_coef)
        with pytest.raises(SeenError) as seen:
            in_folder(project)(minillm.main, "small", "minillm")
        return str(seen.value)

    def store(name: str, known: str) -> None:
        raise SeenError(known)

    monkeypatch.setattr(resume, "ResumeStore", store)
    before = [fingerprint(0.0), fingerprint(0.1)]
    corpus = project / "data/mini/corpus.parquet"
    pandas.read_parquet(corpus).iloc[1:].to_parquet(corpus)
    assert fingerprint(0.0) == before[0], "a run without L_PT does not read it"
    assert fingerprint(0.1) != before[1]
