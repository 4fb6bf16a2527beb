"""Metrics, verdicts, sweeps' files and tables: everything of a report that needs no server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distill.project.table import read_table
from stages.check import check_profile
from tasks.comparison import compare
from tasks.errors import RebuildError
from tasks.grid import Point, Sweep, read_sweep, write_settings
from tasks.metrics import Change, Value, values
from tasks.progress import describe, duration
from tasks.report import Report
from tasks.schedule import Ending, Outcome

ROOT = Path(__file__).resolve().parents[1]


def test_numbers_of_a_metrics_file() -> None:
    content = {
        "minillm": {
            "toy": {"rouge_l": {"mean": 20.0, "std": 1.0, "per_seed": [19, 21], "ci95": [19.0, 21.0]}, "n": 300},
            "judged": False,
            "note": "toy profile",
        }
    }
    assert dict(values(content, "tiny")) == {
        "tiny.minillm.toy.rouge_l": Value(20.0, (19.0, 21.0)),
        "tiny.minillm.toy.n": Value(300.0),
    }


@pytest.mark.parametrize(
    ("name", "old", "new", "verdict"),
    [
        ("t.rouge_l", Value(20, (19, 21)), Value(23, (22, 24)), "better"),
        ("t.rouge_l", Value(20, (19, 21)), Value(17, (16, 18)), "worse"),
        ("t.rouge_l", Value(20, (19, 21)), Value(18, (17, 19.5)), "within noise"),
        ("t.reverse_kl", Value(2.0), Value(1.5), "better"),
        ("t.response_tokens", Value(30), Value(40), "changed"),
        ("t.rouge_l", None, Value(1), "new"),
        ("t.rouge_l", Value(1), None, "gone"),
        ("loss_study.rouge_l", Value(1), Value(2), "better"),
    ],
)
def test_verdicts(name: str, old: Value | None, new: Value | None, verdict: str) -> None:
    assert Change(name, old, new).verdict == verdict


def test_a_report_names_what_it_cost(tmp_path: Path) -> None:
    endings = {
        "train": Ending(Outcome.BUILT, "built in 90 s", 90.0, 2),
        "score": Ending(Outcome.UP_TO_DATE),
    }
    report = Report(tmp_path, "abc Start", endings, [], {}, 91.0)
    assert report.headline() == "1 Built, 1 UpToDate in 91 s"
    assert "| train | Built | 90 s | 180 | built in 90 s |" in report.markdown()
    assert "No metric changed." in report.markdown()


def test_progress_in_words() -> None:
    state = {"stage": "tiny/minillm", "step": 40, "steps": 120, "eta_s": 3700, "loss": 1.8333, "resumed_from": 30}
    assert describe(state) == "tiny/minillm · step 40 of 120 · 62 min left · loss 1.833 · resumed from step 30"
    assert (duration(7500), duration(119)) == ("2 h 05 min", "119 s")


SWEEP = """
targets: [results]
metric: tiny.rouge_l
grid:
  "params.yaml:train.seed": [0, 1]
  "params.yaml:train.rate": [1e-3]
points:
  no norm: {"params.yaml:train.norm": false}
"""


def test_a_sweep_is_read(tmp_path: Path) -> None:
    (tmp_path / "alpha.yaml").write_text(SWEEP)
    sweep = read_sweep(tmp_path / "alpha.yaml")
    assert (sweep.name, sweep.targets, sweep.metric) == ("alpha", ("results",), "tiny.rouge_l")
    assert [point.name for point in sweep.points] == ["seed=0", "seed=1", "no-norm"]
    assert sweep.points[0].settings == {"params.yaml:train.seed": 0, "params.yaml:train.rate": 0.001}


def test_all_faults_of_a_sweep_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text('metrics: x\ngrid: {"seed": 3}\n')
    with pytest.raises(RebuildError) as caught:
        read_sweep(tmp_path / "bad.yaml")
    for part in (
        "unknown key 'metrics'",
        "`metric` must name",
        "seed: give a list",
        "seed: write a setting as file:key",
    ):
        assert part in str(caught.value)


def test_settings_keep_comments(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("# what is built\ntrain:\n  seed: 0  # every draw\n  rate: 1e-3\n")
    write_settings(tmp_path, {"params.yaml:train.seed": 7, "params.yaml:train.norm": False})
    assert file.read_text() == "# what is built\ntrain:\n  seed: 7  # every draw\n  rate: 1e-3\n  norm: false\n"
    with pytest.raises(RebuildError, match="no section 'trian'"):
        write_settings(tmp_path, {"params.yaml:trian.seed": 1})
    with pytest.raises(RebuildError, match=r"there is no other\.yaml"):
        write_settings(tmp_path, {"other.yaml:seed": 1})


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_point_of_a_shipped_sweep_is_a_sound_setting(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for point in read_sweep(file).points:
        for source in ("params.yaml", "profiles/toy.yaml"):
            (tmp_path / source).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / source, tmp_path / source)
        write_settings(tmp_path, point.settings)
        read_table()
        check_profile("toy")


def test_points_are_ranked_and_a_loss_the_other_way_round() -> None:
    points = (Point("a", {"p:x": 1}), Point("b", {"p:x": 2}), Point("failed", {"p:x": 3}))
    numbers = {
        "a": {"loss": Value(2.0), "rouge_l": Value(10.0, (9, 11))},
        "b": {"loss": Value(1.0), "rouge_l": Value(8.0)},
    }
    by_rouge = compare(Sweep("s", (), "rouge_l", points), numbers)
    assert [point.name for point in by_rouge.points] == ["a", "b"]
    assert by_rouge.csv().splitlines()[:2] == [
        "point,p:x,rouge_l,rouge_l.low,rouge_l.high,loss,loss.low,loss.high",
        "a,1,10.0,9,11,2.0,,",
    ]
    assert [point.name for point in compare(Sweep("s", (), "loss", points), numbers).points] == ["b", "a"]
    with pytest.raises(RebuildError, match="has no metric 'bleu'"):
        compare(Sweep("s", (), "bleu", points), numbers)
