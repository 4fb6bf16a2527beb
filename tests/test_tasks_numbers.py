"""Metrics, verdicts, sweeps' files and tables: everything of a report that needs no server."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from commands.check import check_profile
from distill.project.table import read_table
from distill.scoring import changes
from distill.scoring.comparison import CommitComparison as Compared
from distill.scoring.comparison import to_json
from distill.scoring.directions import direction
from tasks.comparison import compare
from tasks.errors import RebuildError
from tasks.grid import Point, Sweep, read_sweep
from tasks.metrics import CommitMetrics, MetricChange, MetricValue, compare_with, lower_is_better, values
from tasks.point_settings import write_settings
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
        "tiny.minillm.toy.rouge_l": MetricValue(20.0, (19.0, 21.0)),
        "tiny.minillm.toy.n": MetricValue(300.0),
    }


def as_command(folder: Path, script: str) -> list[str]:
    """A command for `compare_with`: the script knows `rev` and the files `numbers` and `text` that it is asked for."""
    file = folder / "compare.py"
    file.write_text(f"import pathlib, sys\n_, rev, _, numbers, _, text = sys.argv\n{script}\n")
    return [sys.executable, str(file)]


def test_verdicts_are_those_of_the_command(tmp_path: Path) -> None:
    # Intervals that overlap, and yet the difference is beyond chance: nothing here may judge for itself.
    moved = changes.Change("t.kd.toy.rouge_l", changes.Value(20, (19, 21)), changes.Value(21.5, (20.5, 22.5)))
    gone = changes.Change("t.kd.toy.loss", changes.Value(1.5), None)
    told = to_json(Compared("a1b2 Start", [gone, moved], {"params.yaml: seed": (0, 1)}, [], {}, 0))
    script = (
        f"pathlib.Path(numbers).write_text({json.dumps(told)!r})\npathlib.Path(text).write_text('## Against ' + rev)"
    )
    assert compare_with(tmp_path, "HEAD", as_command(tmp_path, script)) == CommitMetrics(
        "## Against HEAD",
        [
            MetricChange("t.kd.toy.rouge_l", MetricValue(20, (19, 21)), MetricValue(21.5, (20.5, 22.5)), "better"),
            MetricChange("t.kd.toy.loss", MetricValue(1.5), None, "gone"),
        ],
    )


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "sys.exit('error: no commit; mend it')",
            "`python -m commands.compare HEAD` failed: error: no commit; mend it",
        ),
        ("sys.exit(3)", "failed: exit code 3"),
        ("pass", "wrote what cannot be read (FileNotFoundError: "),
        ("pathlib.Path(numbers).write_text('{')", "wrote what cannot be read (JSONDecodeError: "),
        ("pathlib.Path(numbers).write_text('{}')", "wrote what cannot be read (KeyError: 'metrics')"),
        ("pathlib.Path(numbers).write_text('{\"metrics\": [1]}')", "wrote what cannot be read (TypeError: "),
    ],
)
def test_a_command_that_fails_is_a_failure_and_no_verdict(tmp_path: Path, script: str, reason: str) -> None:
    found = compare_with(tmp_path, "HEAD", as_command(tmp_path, script))
    assert reason in found.failure
    assert (found.text, list(found.metrics)) == ("", [])
    report = Report(tmp_path, "abc Start", {}, found, 1.0).markdown()
    assert "## Not compared with abc Start" in report
    assert reason in report


def test_a_report_names_what_it_cost(tmp_path: Path) -> None:
    endings = {
        "train": Ending(Outcome.BUILT, "built in 90 s", 90.0, 2),
        "score": Ending(Outcome.UP_TO_DATE),
    }
    report = Report(tmp_path, "abc Start", endings, CommitMetrics("## Against abc Start: no metric differs\n"), 91.0)
    assert report.headline() == "1 Built, 1 UpToDate in 91 s"
    assert "| train | Built | 90 s | 180 | built in 90 s |" in report.markdown()
    assert "## Against abc Start: no metric differs" in report.markdown()
    assert "there is nothing to compare" in Report(tmp_path, "", {}, CommitMetrics(), 0.0).markdown()


def test_which_end_of_a_sweep_is_best() -> None:
    low = ("tiny.kd.toy.loss", "tiny.kd.kl.reverse_kl", "tiny.kd.calibration.toy.ece", "tiny.kd.exposure.error_a_token")
    assert all(map(lower_is_better, low))
    assert not any(map(lower_is_better, ("tiny.kd.toy.rouge_l", "loss_study.rouge_l", "tiny.kd.toy.exact_match")))


def test_sweeps_and_comparisons_agree_on_which_way_is_up() -> None:
    names = [name for name, _ in values(json.loads((ROOT / "results/tiny.json").read_text(encoding="utf-8")), "tiny")]
    assert any(map(lower_is_better, names))
    assert {name for name in names if lower_is_better(name)} == {name for name in names if direction(name) < 0}


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


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("grid: [1, 2]", "`grid` must hold file:key: [values]"),
        ("points: [1]", "`points` must hold name: {file:key: value}"),
        ("points: {x: 3}", "`points` must hold name: {file:key: value}"),
        ("targets: 3", "`targets` must be a list of stages"),
        ("targets: results", "`targets` must be a list of stages"),
    ],
)
def test_a_sweep_of_another_shape_is_explained(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "bad.yaml").write_text(f"{text}\n")
    with pytest.raises(RebuildError, match="`metric` must name one metric") as caught:
        read_sweep(tmp_path / "bad.yaml")
    assert fault in str(caught.value)


OUTSIDE = "name a file of the project from its top folder"


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("../../params.yaml:seed", OUTSIDE),
        ("profiles/../../x.yaml:seed", OUTSIDE),
        ("/etc/x.yaml:seed", OUTSIDE),
        ("~/x.yaml:seed", OUTSIDE),
        ("~root/x.yaml:seed", OUTSIDE),
        ("./params.yaml:seed", OUTSIDE),
        ("profiles//toy.yaml:seed", OUTSIDE),
        (".git/config:core.bare", OUTSIDE),
        (".dvc/config:core.remote", OUTSIDE),
        ("..\\params.yaml:seed", OUTSIDE),
        (":seed", OUTSIDE),
        ("params.yaml:", "write the key as section.key"),
        ("params.yaml:a..b", "write the key as section.key"),
        (3, "write a setting as file:key"),
        (None, "write a setting as file:key"),
    ],
)
def test_a_sweep_writes_only_into_its_clones(tmp_path: Path, place: object, fault: str) -> None:
    (tmp_path / "away.yaml").write_text(json.dumps({"metric": "m", "points": {"one": {"PLACE": 1}}}))
    text = (tmp_path / "away.yaml").read_text().replace('"PLACE"', json.dumps(place))
    (tmp_path / "away.yaml").write_text(text)
    with pytest.raises(RebuildError, match=fault):
        read_sweep(tmp_path / "away.yaml")


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        ("{a b: {}, a-b: {}}", "points 'a b', 'a-b' would share the name a-b"),
        ("{Norm: {}, norm: {}}", "points 'Norm', 'norm' would share the name norm"),
        ("{.: {}}", "cannot be called '.'"),
        ("{..: {}}", "cannot be called '..'"),
        ("{a..b: {}}", "cannot be called 'a..b'"),
        ("{x.lock: {}}", "cannot be called 'x.lock'"),
        ("{'': {}}", "cannot be called ''"),
        ("{长: {}}", "cannot be called '长'"),
        ("{" + "n" * 250 + ": {}}", "is too long"),
    ],
)
def test_points_have_names_of_their_own(tmp_path: Path, points: str, fault: str) -> None:
    (tmp_path / "names.yaml").write_text(f"metric: m\npoints: {points}\n", encoding="utf-8")
    with pytest.raises(RebuildError) as caught:
        read_sweep(tmp_path / "names.yaml")
    assert fault in str(caught.value)


def test_values_of_a_grid_that_read_alike_are_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text('metric: m\ngrid: {"params.yaml:seed": [1, 2, 1]}\n')
    with pytest.raises(RebuildError, match="points 'seed=1', 'seed=1' would share the name seed=1"):
        read_sweep(tmp_path / "twice.yaml")
    (tmp_path / "a name.yaml").write_text('metric: m\ngrid: {"params.yaml:seed": [1, 2]}\n')
    with pytest.raises(RebuildError, match="'a name' cannot be a sweep's name"):
        read_sweep(tmp_path / "a name.yaml")


def test_a_link_out_of_the_clone_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    (tmp_path / "mine.yaml").write_text("seed: 0\n")
    (tmp_path / "clone/soft.yaml").symlink_to(tmp_path / "mine.yaml")
    (tmp_path / "clone/hard.yaml").hardlink_to(tmp_path / "mine.yaml")
    (tmp_path / "clone/folder").symlink_to(tmp_path)
    for name in ("soft.yaml", "hard.yaml", "folder/mine.yaml"):
        with pytest.raises(RebuildError, match="is a link out of the clone"):
            write_settings(tmp_path / "clone", {f"{name}:seed": 1})
    assert (tmp_path / "mine.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("content", ["[1]", "", "a: [", "a: 3", "a: {b: [1]}"])
def test_a_setting_of_a_file_of_another_shape_is_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(RebuildError, match=r"^file\.yaml:a\.b\.c: .*file\.yaml"):
        write_settings(tmp_path, {"file.yaml:a.b.c": 1})
    assert (tmp_path / "file.yaml").read_text() == content


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
        for source in ("dvc.yaml", "params.yaml", "profiles/toy.yaml"):
            (tmp_path / source).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / source, tmp_path / source)
        write_settings(tmp_path, point.settings)
        read_table()
        check_profile("toy")


def test_points_are_ranked_and_a_loss_the_other_way_round() -> None:
    points = (Point("a", {"p:x": 1}), Point("b", {"p:x": 2}), Point("failed", {"p:x": 3}))
    numbers = {
        "a": {"loss": MetricValue(2.0), "rouge_l": MetricValue(10.0, (9, 11))},
        "b": {"loss": MetricValue(1.0), "rouge_l": MetricValue(8.0)},
    }
    by_rouge = compare(Sweep("s", (), "rouge_l", points), numbers)
    assert "ranks none" not in by_rouge.markdown()
    flat = {name: {"rouge_l": MetricValue(0.0)} for name in numbers}
    assert (
        "All points have the same rouge_l: it ranks none" in compare(Sweep("s", (), "rouge_l", points), flat).markdown()
    )
    assert [point.name for point in by_rouge.points] == ["a", "b"]
    assert by_rouge.csv().splitlines()[:2] == [
        "point,p:x,rouge_l,rouge_l.low,rouge_l.high,loss,loss.low,loss.high",
        "a,1,10.0,9,11,2.0,,",
    ]
    assert [point.name for point in compare(Sweep("s", (), "loss", points), numbers).points] == ["b", "a"]


def test_points_without_the_metric_stand_last_and_are_named() -> None:
    points = (Point("a", {"p:x": 1}), Point("b", {"p:x": 2}))
    numbers = {"a": {"loss": MetricValue(2.0)}, "b": {"loss": MetricValue(1.0), "rouge_l": MetricValue(8.0)}}
    found = compare(Sweep("s", (), "rouge_l", points), numbers)
    assert [point.name for point in found.points] == ["b", "a"]
    assert found.csv().splitlines()[1:] == ["b,2,8.0,,,1.0,,", "a,1,,,,2.0,,"]
    assert "| a | 1 | – |" in found.markdown()
    assert found.fault.startswith("no metric 'rouge_l' in the results of a, last in the table. Correct `metric`")
    assert compare(Sweep("s", (), "loss", points), numbers).fault == ""
