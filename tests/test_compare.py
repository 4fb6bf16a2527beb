"""`make compare`: verdicts on metrics, and the whole command on a small git and DVC repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.scoring.changes import Change, Value, compare, values
from distill.scoring.comparison import CommitComparison, to_markdown
from distill.scoring.directions import direction
from tests.scored_project import put

ROOT = Path(__file__).resolve().parents[1]


def change(old: float, new: float, half: float | None = 1.0, name: str = "tiny.kd.toy.rouge_l") -> Change:
    def value(mean: float) -> Value:
        return Value(mean, None if half is None else (mean - half, mean + half))

    return Change(name, value(old), value(new))


# --- verdicts -----------------------------------------------------------------------------------------


def test_noise_is_that_of_the_difference() -> None:
    # two intervals of half width 1 give one of half width 1.41 for the difference
    assert change(20, 21.4).verdict == "within noise"
    assert change(20, 21.5).verdict == "better"
    assert change(21.5, 20).verdict == "worse"
    assert change(20, 21).interval == pytest.approx((1 - 2**0.5, 1 + 2**0.5))


def test_an_uneven_interval_counts_on_the_side_that_matters() -> None:
    old, new = Value(20, (18, 20.3)), Value(21, (20.6, 25))
    assert Change("tiny.kd.toy.rouge_l", old, new).interval == pytest.approx((0.5, 1 + (16 + 4) ** 0.5))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny.kd.toy.rouge_l", 1),
        ("tiny.kd.toy.rouge_l_by_length.11+", 1),
        ("tiny.kd.toy.judge", 1),
        ("tiny.kd.calibration.boolq.accuracy", 1),
        ("tiny.kd.calibration.boolq.ece", -1),
        ("tiny.kd.calibration.boolq.word_mass", 0),
        ("tiny.kd.kl.reverse_kl", -1),
        ("tiny.kd.exposure.error", -1),
        ("tiny.kd.exposure.error_as_released", -1),
        ("tiny.kd.toy.loss", -1),
        ("tiny.kd.toy.response_tokens", 0),
    ],
)
def test_which_way_is_up(name: str, expected: int) -> None:
    assert direction(name) == expected
    moved = change(20, 30, name=name)
    assert moved.verdict == {1: "better", -1: "worse", 0: "changed"}[expected]


def test_few_prompts_and_other_words_of_rouge_settle_nothing() -> None:
    cell = {"mean": 20.0, "ci95": [19.0, 21.0]}

    def verdict(**new: Any) -> str:
        (before,), (after,) = (
            [value for _, value in values(each, "m")] for each in (cell, cell | {"mean": 90.0} | new)
        )
        return Change("tiny.kd.toy.rouge_l", before, after).verdict

    assert verdict(ci95=[89.0, 91.0]) == "better"
    assert verdict(ci95=[89.0, 91.0], prompts=5) == "too few prompts"
    assert verdict(ci95=[89.0, 91.0], words="unicode") == "changed"


def test_without_spread_nothing_is_called_better_or_worse() -> None:
    assert change(20, 30, half=None).verdict == "changed"
    assert Change("a", None, Value(1)).verdict == "new"
    assert Change("a", Value(1), None).verdict == "gone"


def test_values_of_a_results_file() -> None:
    content = {
        "kd": {
            "toy": {
                "rouge_l": {"mean": 5.0, "std": 1.0, "per_seed": [4.0, 6.0], "ci95": [4.0, 6.5]},
                "distinct_4": {"mean": 90.0, "std": 1.0},
                "truncated": {"mean": 0.5},
            }
        }
    }
    found = dict(values(content, "tiny"))
    assert found == {
        "tiny.kd.toy.rouge_l": Value(5.0, (4.0, 6.5)),
        "tiny.kd.toy.distinct_4": Value(90.0, (90 - 1.96, 90 + 1.96)),
        "tiny.kd.toy.truncated": Value(0.5),
    }
    [only] = compare(content, {}, "tiny", {"kd.toy.rouge_l.mean"})
    assert (only.name, only.verdict) == ("tiny.kd.toy.rouge_l", "gone")


def test_markdown_folds_noise_away() -> None:
    metrics = [
        change(20, 20.1),
        change(30, 20, name="tiny.sft.toy.rouge_l"),
        change(1, 9, name="tiny.sft.kl.forward_kl"),
    ]
    found = CommitComparison(
        "a1b2 Fix | mend", metrics, {"params.yaml: seed": (0, 1)}, ["data/x"], {"distill/a.py": "+1 −2"}, 2
    )
    text = to_markdown(found)
    assert "2 worse, 1 within noise" in text
    assert text.index("tiny.sft.toy.rouge_l") < text.index("<details><summary>1 within noise") < text.index("tiny.kd")
    for expected in ("`params.yaml: seed` | 0 | 1", "`data/x`", "`distill/a.py` +1 −2", "2 stage(s) are out of date"):
        assert expected in text


# --- the command --------------------------------------------------------------------------------------

SCORE = """
import json, pathlib
mean = float(pathlib.Path("params.yaml").read_text().split("quality: ")[1].split()[0])
word = pathlib.Path("words.txt").read_text()
cell = {"mean": mean, "std": 0.1, "per_seed": [mean], "ci95": [mean - 1, mean + 1]}
pathlib.Path("results").mkdir(exist_ok=True)
pathlib.Path("results/tiny.json").write_text(json.dumps({"minillm": {"toy": {"rouge_l": cell, "loss": cell}}}))
"""
PIPELINE = """
stages:
  score:
    cmd: python distill/score.py
    deps: [distill/score.py, words.txt]
    params: [quality]
    metrics:
      - results/tiny.json: {cache: false}
"""


def run(root: Path, *command: str, code: int = 0) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "COLUMNS": "160"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def commit(root: Path, message: str) -> None:
    run(root, "git", "add", "--all")
    run(root, "git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", message)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a commit of what was built, then other settings, data and code, run again."""
    root = tmp_path_factory.mktemp("repository")
    put(root / "distill/score.py", SCORE)
    put(root / "dvc.yaml", PIPELINE)
    put(root / "params.yaml", "quality: 20.0\n")
    put(root / "words.txt", "one\n")
    run(root, "git", "init", "--quiet")
    run(root, sys.executable, "-m", "dvc", "init", "--quiet")
    commit(root, "Never built")
    run(root, sys.executable, "-m", "dvc", "repro", "--quiet")
    commit(root, "First | ever")
    put(root / "params.yaml", "quality: 25.0\n")
    put(root / "words.txt", "two\n")
    put(root / "distill/score.py", SCORE + "# a comment\n")
    run(root, sys.executable, "-m", "dvc", "repro", "--quiet")
    return root


def test_command_tells_settings_data_code_and_metrics(repository: Path) -> None:
    told = run(repository, sys.executable, "-m", "commands.compare", "HEAD", "--markdown", "out/compare.md")
    assert "1 worse, 1 better" in told.splitlines()[-1]
    assert "out of date" not in told
    text = (repository / "out/compare.md").read_text(encoding="utf-8")
    for expected in (
        "First | ever: 1 worse, 1 better",
        "| tiny.minillm.toy.loss | 20 [19, 21] | 25 [24, 26] | +5 [+3.59, +6.41] | worse |",
        "| tiny.minillm.toy.rouge_l | 20 [19, 21] | 25 [24, 26] | +5 [+3.59, +6.41] | better |",
        "| `params.yaml: quality` | 20.0 | 25.0 |",
        "- `words.txt`",
        "- `distill/score.py` +1 −0",
    ):
        assert expected in text
    for expected in ("params.yaml: quality", "words.txt", "distill/score.py", "tiny.minillm.toy.rouge_l"):
        assert expected in told


def test_an_interval_of_another_shape_is_none() -> None:
    content = {"a": {"mean": 1, "ci95": [1]}, "b": {"mean": 2, "std": None}, "c": {"mean": 0, "std": 1}, "d": [{}]}
    assert dict(values(content, "t")) == {"t.a": Value(1.0), "t.b": Value(2.0), "t.c": Value(0.0, (-1.96, 1.96))}


def test_gate_fails_when_a_metric_got_worse(repository: Path) -> None:
    run(repository, sys.executable, "-m", "commands.compare", "HEAD", "--fail-if-worse", code=2)


def test_a_program_reads_the_same(repository: Path) -> None:
    told = json.loads(run(repository, sys.executable, "-m", "commands.compare", "HEAD", "--json", "-"))
    assert told["headline"] == "1 worse, 1 better"
    assert told["commit"].endswith("First | ever")
    assert told["stale"] == 0
    assert [(row["name"], row["verdict"]) for row in told["metrics"]] == [
        ("tiny.minillm.toy.loss", "worse"),
        ("tiny.minillm.toy.rouge_l", "better"),
    ]
    assert told["metrics"][0]["old"] == {"mean": 20.0, "ci95": [19.0, 21.0]}
    assert told["metrics"][0]["difference_ci95"] == pytest.approx([5 - 2**0.5, 5 + 2**0.5])
    assert told["settings"] == {"params.yaml: quality": {"old": 20.0, "new": 25.0}}
    assert (told["data"], told["code"]) == (["words.txt"], {"distill/score.py": "+1 −0"})
    table = run(repository, sys.executable, "-m", "commands.compare", "HEAD", "--json", "out/compare.json")
    assert "1 worse, 1 better" in table.splitlines()[-1]
    assert json.loads((repository / "out/compare.json").read_text(encoding="utf-8")) == told


def test_against_a_commit_that_was_never_built(repository: Path) -> None:
    told = json.loads(run(repository, sys.executable, "-m", "commands.compare", "HEAD~1", "--json", "-"))
    assert {row["verdict"] for row in told["metrics"]} == {"new"}


@pytest.mark.parametrize("option", ["--json", "--markdown"])
def test_a_folder_is_no_file_to_write_to(repository: Path, option: str) -> None:
    told = run(repository, sys.executable, "-m", "commands.compare", "HEAD", option, "results", code=2)
    assert "results is a folder; name a file to write the comparison to" in told


def test_unknown_commit_is_one_message(repository: Path) -> None:
    told = run(repository, sys.executable, "-m", "commands.compare", "nonsense", code=2)
    assert "check that this is a git clone with that commit" in told
    assert "Traceback" not in told


def test_results_that_are_out_of_date_are_called_so(repository: Path) -> None:
    before = (repository / "params.yaml").read_text(encoding="utf-8")
    put(repository / "params.yaml", "quality: 26.0\n")
    try:
        assert "1 stage(s) are out of date" in run(repository, sys.executable, "-m", "commands.compare", "HEAD")
    finally:
        put(repository / "params.yaml", before)
