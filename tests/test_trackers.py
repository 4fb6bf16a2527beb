"""`hardware.report_to`: what TensorBoard is told is what DVC plots, and a tracker that is not there is refused."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distill.project.errors import SettingsError
from distill.project.settings import parse
from distill.runs import hardware
from distill.runs.curves import Curves
from distill.runs.trackers import Trackers
from tests.tiny_pipeline import built, edit, stage


def test_a_tracker_that_is_not_installed_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"`tensorboard` is not installed here; run `.venv/bin/pip install -e '.\["):
        parse({"report_to": ["tensorboard"]}, hardware.HardwareSettings, "profiles/toy.yaml: hardware")
    with pytest.raises(SettingsError, match="pip install mlflow` or leave it out"):
        parse({"report_to": ["mlflow"]}, hardware.HardwareSettings, "profiles/toy.yaml: hardware")
    with pytest.raises(SettingsError, match="report_to"):
        parse({"report_to": ["dvclive"]}, hardware.HardwareSettings, "profiles/toy.yaml: hardware")


def test_no_tracker_costs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    curves = Curves()
    trackers = Trackers((), "minillm@small", {}, curves)
    curves.add(1, loss=1.0)
    trackers.report(curves)
    trackers.end()
    assert list(tmp_path.iterdir()) == []


needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed: pip install -e '.[trackers]'"
)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar that a folder of event files holds: name → step → value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def tsv(path: Path) -> dict[int, float]:
    """A curve that DVC plots."""
    lines = (line.split("\t") for line in path.read_text().splitlines()[1:])
    return {int(step): float(value) for step, value in lines}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pipeline with TensorBoard switched on, and two of its stages run again."""
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path_factory.mktemp("trackers") / "project"))
    edit(root / "profiles/mini.yaml", "hardware.report_to", ["tensorboard"])
    stage(root, "sft", "small", "sft")
    stage(root, "minillm", "small", "minillm")
    return root


@needs_tensorboard
def test_minillm_reports_the_curves_that_dvc_plots(project: Path) -> None:
    told = scalars(project / "trackers/tensorboard/minillm@small")
    curves = {path.stem: tsv(path) for path in (project / "runs/small/minillm.curves").glob("*.tsv")}
    assert {"loss", "reverse_kl", "valid_rouge_l", "learning_rate"} <= set(curves)
    for name, points in curves.items():
        assert told[f"train/{name}"] == pytest.approx(points, rel=1e-5), name


@needs_tensorboard
def test_supervised_training_reports_loss_and_validation(project: Path) -> None:
    told = scalars(project / "trackers/tensorboard/sft@small")
    assert len(told["train/loss"]) == 4  # 64 rows, batches of 32, 2 epochs
    assert told["eval/rouge_l"] == pytest.approx(tsv(project / "runs/small/sft.curves/valid_rouge_l.tsv"), rel=1e-5)


@needs_tensorboard
def test_a_continued_run_reports_only_what_is_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    curves = Curves({"loss": [[1.0, 5.0], [2.0, 4.0]]})
    settings: dict[str, Any] = {"learning_rate": 1e-3}
    trackers = Trackers(("tensorboard",), "minillm@small", settings, curves)
    curves.add(3, loss=3.0, reverse_kl=0.5)
    trackers.report(curves)
    trackers.report(curves)
    curves.add(4, loss=2.0)
    trackers.report(curves)
    trackers.end()
    told = scalars(tmp_path / "trackers/tensorboard/minillm@small")
    assert told == {"train/loss": {3: 3.0, 4: 2.0}, "train/reverse_kl": {3: 0.5}}


@needs_tensorboard
def test_only_the_first_process_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    Trackers(("tensorboard",), "minillm@small", {}, Curves()).end()
    assert list(tmp_path.iterdir()) == []
