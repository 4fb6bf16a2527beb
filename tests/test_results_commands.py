"""The commands that score, show and write tables: a made-up project of one student."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import show as show_stage
from distill.project.errors import DataError
from distill.scoring import tables
from stages import report as report_stage
from tests.scored_project import (
    NOTE,
    made_and_scored,
    put,
    put_rows,
    read,
    run,
)

ROOT = Path(__file__).resolve().parents[1]


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as a person types it, in a folder of theirs."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose scores and results are made; tests only read it."""
    return made_and_scored(tmp_path_factory)


# --- the commands -------------------------------------------------------------------------------------


def test_anyones_files_can_be_scored(tmp_path: Path) -> None:
    put_rows(tmp_path / "a.jsonl", [{"text": "the cat"}, {"text": "a dog"}])
    put_rows(tmp_path / "r.jsonl", [{"output": "the cat"}, {"output": ["no", "a dog ran"]}])
    ran = command(tmp_path, "stages.rouge", "--answers", "a.jsonl", "--references", "r.jsonl", "--json", "out/s.json")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("rouge_l            90.0000  over 1 seed(s), 2 examples; 95 % interval 80.0000 to ")
    assert read(tmp_path / "out/s.json")["rouge_l"]["mean"] == 90.0


def test_text_that_rouge_cannot_read_is_refused_until_its_words_are_named(tmp_path: Path) -> None:
    texts = ["我在2024年去了北京", "สวัสดีครับ", "हिन्दी में लिखा है", "مرحبا بالعالم", "🙂"]
    put_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    put_rows(tmp_path / "r.jsonl", [{"output": text} for text in texts])
    files = ("stages.rouge", "--answers", "a.jsonl", "--references", "r.jsonl")
    ran = command(tmp_path, *files)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Rouge-L cannot read 5 of 5" in ran.stderr and "use `--words unicode`" in ran.stderr
    ran = command(tmp_path, *files, "--words", "unicode", "--json", "s.json")
    assert ran.returncode == 0, ran.stderr
    assert read(tmp_path / "s.json")["rouge_l"] == {"mean": 100.0, "per_seed": [100.0], "words": "unicode"}


def test_bad_files_end_with_one_message_and_leave_nothing(tmp_path: Path) -> None:
    put_rows(tmp_path / "a.jsonl", [{"text": "the cat"}])
    put_rows(tmp_path / "r.jsonl", [{"output": "the cat"}, {"output": "a dog"}])
    ran = command(tmp_path, "stages.rouge", "--answers", "a.jsonl", "--references", "r.jsonl", "--json", "s.json")
    assert ran.returncode == 2
    assert "1 answers missing (id 1)" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "r.jsonl"]


@pytest.mark.parametrize(
    "arguments", [["tiny", "sft"], ["a", "b", "c", "--answers", "x.jsonl", "--references", "y.jsonl"]]
)
def test_usage_is_explained(tmp_path: Path, arguments: list[str]) -> None:
    ran = command(tmp_path, "stages.rouge", *arguments)
    assert ran.returncode == 2
    assert "WHO WHAT SET, or both" in ran.stderr


def test_show_prints_the_table_its_notes_and_the_report(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, project, report_stage)
    run(monkeypatch, project, show_stage)
    shown = capsys.readouterr().out
    for expected in (
        "Teacher",
        "MiniLLM",
        "toy_shift",
        "reverse KL",
        NOTE,
        str(project / "results/report.html"),
    ):
        assert expected in shown
    assert all(len(line) < 140 for line in shown.splitlines() if "│" in line)


def test_show_writes_the_readme_between_its_marks(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("results", "profiles"):
        (tmp_path / folder).symlink_to(project / folder)
    (tmp_path / "params.yaml").symlink_to(project / "params.yaml")
    put(tmp_path / "README.md", f"above\n{tables.START_MARK}\nthe last table\n{tables.END_MARK}\nbelow\n")
    run(monkeypatch, tmp_path, show_stage, "--write-readme")
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written.startswith(f"above\n{tables.START_MARK}\n| tiny (toy) | toy_id | toy_shift | reverse KL |\n")
    assert written.endswith(f"{tables.END_MARK}\nbelow\n")
    assert "the last table" not in written
    run(monkeypatch, tmp_path, show_stage, "--write-readme")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == written
    put(tmp_path / "README.md", "no marks\n")
    with pytest.raises(DataError, match="results:start"):
        run(monkeypatch, tmp_path, show_stage, "--write-readme")
