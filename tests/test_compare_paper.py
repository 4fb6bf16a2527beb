"""Our results beside the paper's Table 1: made-up results of gpt2-base through the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.project.errors import DataError
from distill.project.files import write_json
from distill.project.settings import read_yaml
from distill.scoring.paper import TABLE, Compared, build, compare, read_paper
from tests.scored_project import put

ROOT = Path(__file__).resolve().parents[1]


def score(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "std": 0.1, "ci95": [mean - half, mean + half]}


RESULTS = {
    "teacher": {"dolly": {"rouge_l": score(27.0, 1.0)}, "mine": {"rouge_l": score(50.0, 1.0)}},
    "sft": {"dolly": {"rouge_l": score(23.35, 0.1)}, "uinst": {"rouge_l": score(17.0, 0.5)}, "kl": {"reverse_kl": {}}},
    "minillm": {
        "dolly": {"rouge_l": score(25.0, 0.3), "judge": score(44.0, 2.0)},
        "self_inst": {"rouge_l": score(13.0, 0.5), "judge": {"judged": 3, "pairs": 5}},
    },
    "single_step": {"dolly": {"rouge_l": score(30.0, 1.0)}},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    put(
        tmp_path / "params.yaml",
        "students: {tiny: {family: toy}, gpt2-base: {family: gpt2}}\nfamilies: {toy: a, gpt2: b}\n"
        "datasets: {dolly: c}\nmethods: [sft, minillm]\nseed: 0\n",
    )
    write_json(tmp_path / "results/gpt2-base.json", RESULTS)
    return tmp_path


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "commands.compare_paper", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_shared_cell_gets_a_verdict() -> None:
    found = {(c.model, c.dataset, c.metric): c for c in compare(read_paper(), "gpt2-base", RESULTS)}
    verdicts = {place: (c.paper, c.verdict) for place, c in found.items()}
    assert verdicts == {
        ("teacher", "dolly", "rouge_l"): (27.6, "within"),
        ("sft", "dolly", "rouge_l"): (23.3, "within"),
        ("sft", "uinst", "rouge_l"): (18.5, "below"),
        ("minillm", "dolly", "rouge_l"): (24.6, "above"),
        ("minillm", "dolly", "judge"): (44.7, "within"),
        ("minillm", "self_inst", "rouge_l"): (13.2, "within"),
    }


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((24.64, 30), "within"), ((24.66, 30), "above"), ((20, 24.56), "within"), ((20, 24.54), "below")],
)
def test_a_printed_digit_stands_for_all_that_round_to_it(interval: tuple[float, float], verdict: str) -> None:
    assert Compared("minillm", "dolly", "rouge_l", 24.6, 0.0, interval).verdict == verdict


def test_few_prompts_and_words_that_are_not_the_papers_are_not_held_beside_it() -> None:
    cell = {"rouge_l": score(25.0, 0.3) | {"prompts": 5}}
    found = build(read_paper(), "gpt2-base", {"sft": {"dolly": cell}}, {})
    assert found is not None
    assert found.rows[0].cells[0].sign == "?"
    assert "? 1 cells have too few prompts" in " ".join(found.notes)
    assert not list(
        compare(read_paper(), "gpt2-base", {"sft": {"dolly": {"rouge_l": score(9, 1) | {"words": "unicode"}}}})
    )


def test_the_command_prints_the_table_and_one_line_for_a_toy(project: Path) -> None:
    done = command(project)
    assert done.returncode == 0, done.stderr
    assert "tiny: no counterpart in the paper (gpt2-base, " in done.stdout.splitlines()[0]
    assert "25.0 [24.7, 25.3] / 24.6 ▲" in done.stdout and "17.0 [16.5, 17.5] / 18.5 ▼" in done.stdout
    assert "4 within, 1 above, 1 below, of 6 cells." in done.stdout
    markdown = command(project, "gpt2-base", "--markdown").stdout
    assert "| gpt2-base: GPT-2 120M of GPT-2 1.5B | dolly | uinst | dolly, judge | self_inst |" in markdown
    assert "| Teacher | 27.0 [26.0, 28.0] / 27.6 ≈ | – | – | – |" in markdown


def test_what_is_missing_is_said(project: Path) -> None:
    done = command(project, "gpt2-bse")
    assert done.returncode == 2
    assert "`gpt2-bse` is no student of params.yaml nor of the paper; use one of: " in done.stderr
    done = command(project, "opt-1b3")
    assert done.returncode == 2 and "results/opt-1b3.json does not exist; build it with `make repro`" in done.stderr
    write_json(project / "results/opt-1b3.json", {"sft": {"mine": {"rouge_l": score(1, 1)}}})
    assert "evaluated on none of the paper's sets" in command(project, "opt-1b3").stdout
    write_json(project / "results/opt-1b3.json", [])
    assert command(project, "opt-1b3").stderr.startswith("error: results/opt-1b3.json is damaged (it holds a list ")


def test_the_table_is_whole(tmp_path: Path) -> None:
    paper = read_paper()
    models = {name for pair in paper.students.values() for name in pair.values()}
    assert models == set(paper.rows)
    assert {column for columns in paper.sets.values() for column in columns.values()} == set(
        read_yaml(TABLE)["columns"]
    )
    # averages over the five Rouge-L columns that other papers quote (20.0 for MiniLLM 120M without UnNI)
    row = paper.rows["GPT-2 120M"]["minillm"]
    assert round(sum(row[c] for c in ("D-RL", "SI-RL", "V-RL", "S-NI")) / 4, 1) == 20.0
    assert build(paper, "llama-7b", {"sft": {}}, {}) is None
    cut = TABLE.read_text().replace("[58.4, 27.6,", "[27.6,")
    put(tmp_path / "cut.yaml", cut)
    with pytest.raises(DataError, match="needs 8 numbers"):
        read_paper(tmp_path / "cut.yaml")
