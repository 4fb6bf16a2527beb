"""The two commands as a person runs them: what they print, write and return."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.generation.settings import SamplingSettings
from distill.generation.validation import Validation
from distill.text.examples import read_examples, read_words

ROOT = Path(__file__).resolve().parents[1]
ROWS = [{"instruction": f"Say hello {i // 2}.", "output": "Hello."} for i in range(10)]
PROFILE = """\
recipe:
  data:
    train: {path: train.jsonl}
    valid_rows: 2
  prompt:
    with_input: "{instruction} {input}"
    without_input: "{instruction}"
    max_prompt_tokens: 20
    max_response_tokens: 20
  tokenizer: {train: {vocab_size: 258}}
"""


def selector(path: Path) -> str:
    """What chooses checkpoints on these validation rows where Rouge-L is asked for; nothing is sampled."""
    tokenizer: Any = None
    return Validation(read_examples(path), tokenizer, SamplingSettings(), 1, 1, 0, words=read_words(path)).selector(
        "rouge_l"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder laid out like the repository, with a family `mine` and an evaluation set `own` in it."""
    (tmp_path / "params.yaml").write_text("families: {mine: rows}\ndatasets: {own: rows/train.jsonl}\n")
    for folder in ("profiles", "evalsets", "rows"):
        (tmp_path / folder).mkdir()
    (tmp_path / "profiles/mine.yaml").write_text(PROFILE)
    (tmp_path / "evalsets/own.yaml").write_text("description: Mine.\nlicence: mine\n")
    (tmp_path / "rows/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run(project: Path, stage: str, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", name],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def test_prepare_prints_a_short_table_and_nothing_else(project: Path) -> None:
    ran = run(project, "prepare", "mine")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [line.split() for line in ran.stdout.splitlines() if line.strip()]
    assert ["rows", "read", "10", "2"] in lines
    assert ["moved", "to", "validation", "−2"] in lines
    assert ["again", "in", "the", "same", "split", "4", "1"] in lines
    assert "also in train" not in ran.stdout, "rows of one prompt stay together"
    assert len(lines) < 20
    made = {path.name for path in (project / "data/mine").iterdir()}
    assert made == {"train.parquet", "valid.parquet", "tokenizer", "report.json"}


def test_evalset_prints_a_short_table_and_nothing_else(project: Path) -> None:
    ran = run(project, "evalset", "own")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "rows kept" in ran.stdout
    assert {path.name for path in (project / "evaluation").iterdir()} == {"own.jsonl", "own.report.json"}


HUB = "description: d\nlicence: l\nhub: {id: owner/name, revision: %s}\n"


def test_references_that_rouge_cannot_read_are_said_and_refused(project: Path) -> None:
    """Chinese answers with a digit each: a word that Rouge-L can read, and none of what they say."""
    rows = [{"instruction": f"第{i}个问题", "output": f"答案是第{i}号房间。"} for i in range(10)]
    (project / "rows/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = run(project, "evalset", "own")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "the references of `own`: Rouge-L cannot read 10 of 10" in ran.stderr
    assert ran.stderr.endswith("use `rouge: unicode` in evalsets/own.yaml\n")
    assert not (project / "evaluation").exists()
    ran = run(project, "prepare", "mine")
    assert ran.returncode == 0 and "unread by Rouge-L" in ran.stdout
    assert "chosen by validation loss; `recipe.data.rouge: unicode` in profiles/mine.yaml reads them" in ran.stderr
    valid = project / "data/mine/valid.parquet"
    assert selector(valid) == "loss"

    (project / "evalsets/own.yaml").write_text("description: Mine.\nlicence: mine\nrouge: unicode\n")
    (project / "profiles/mine.yaml").write_text(
        PROFILE.replace("    valid_rows: 2", "    valid_rows: 2\n    rouge: unicode")
    )
    for stage, name in (("evalset", "own"), ("prepare", "mine")):
        ran = run(project, stage, name)
        assert (ran.returncode, ran.stderr) == (0, "")
    asked = {json.loads(line)["rouge"] for line in (project / "evaluation/own.jsonl").read_text().splitlines()}
    assert (asked, read_words(valid)) == ({"unicode"}, "unicode")
    assert selector(valid) == "rouge_l"


@pytest.mark.parametrize(
    ("stage", "name", "broken", "said"),
    [
        ("evalset", "others", {}, "no `others` in datasets; the names there are: own"),
        ("evalset", "own", {"evalsets/own.yaml": HUB % "main"}, "must be pinned"),
        ("evalset", "own", {"evalsets/own.yaml": HUB % ("0123abcd" * 5)}, "give its `path` instead"),
        ("evalset", "own", {"rows/train.jsonl": "{\n"}, "`on_bad_row: skip`"),
        ("prepare", "min", {}, "no `min` in families; did you mean `mine`?"),
        ("prepare", "mine", {"profiles/mine.yaml": PROFILE.replace("path", "pth")}, "did you mean `path`?"),
        ("prepare", "mine", {"rows/train.jsonl": "{\n"}, "`on_bad_row: skip`"),
    ],
)
def test_bad_input_is_one_message_without_a_traceback(
    project: Path, stage: str, name: str, broken: dict[str, str], said: str
) -> None:
    for file, content in broken.items():
        (project / file).write_text(content)
    ran = run(project, stage, name)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (project / "data").exists()
    assert not (project / "evaluation").exists()
