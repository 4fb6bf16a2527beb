"""`hardware.report_to`: what a tracker is told is what DVC plots, and a tracker that is not there is refused."""

from __future__ import annotations

import json
import shutil
import struct
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


COMMANDS = {
    "sft": ("on_rows", "small", "sft", "sft.py", "base"),
    "minillm": ("on_own_samples", "small", "minillm", "minillm"),
}
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
    for command in COMMANDS.values():
        stage(root, *command)
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


# --- W&B and MLflow, which a user installs ------------------------------------------------------------


def trained(root: Path, tracker: str) -> dict[str, dict[str, dict[int, float]]]:
    """SFT and MiniLLM run again with that tracker: the curves that DVC plots, by stage and name."""
    edit(root / "profiles/mini.yaml", "hardware.report_to", [tracker])
    for name in ("sft", "minillm"):
        said = stage(root, *COMMANDS[name])
        assert "Traceback" not in said
        assert "WARNING" not in said.upper(), said
    return {
        f"{name}@small": {path.stem: tsv(path) for path in (root / f"runs/small/{name}.curves").glob("*.tsv")}
        for name in ("sft", "minillm")
    }


def test_mlflow_is_told_the_curves(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed: pip install mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path / "project"))
    curves = trained(root, "mlflow")
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "distill-pipeline")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"sft@small", "minillm@small"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}

    def told(run: str, name: str) -> dict[int, float]:
        return {m.step: m.value for m in client.get_metric_history(runs[run].info.run_id, name)}

    for name, points in curves["minillm@small"].items():
        assert told("minillm@small", name) == pytest.approx(points, rel=1e-5), name
    assert told("sft@small", "eval_rouge_l") == pytest.approx(curves["sft@small"]["valid_rouge_l"], rel=1e-5)
    assert len(told("sft@small", "loss")) == 4


def test_wandb_is_told_the_curves_offline(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path / "project"))
    curves = trained(root, "wandb")
    files = sorted((root / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2, "a run for each stage"
    told = dict(wandb_run(file.read_bytes(), messages.Record) for file in files)
    assert set(told) == {"sft@small", "minillm@small"}
    for name, points in curves["minillm@small"].items():
        assert told["minillm@small"][f"train/{name}"] == pytest.approx(points, rel=1e-5), name
    assert told["sft@small"]["eval/rouge_l"] == pytest.approx(curves["sft@small"]["valid_rouge_l"], rel=1e-5)
    assert len(told["sft@small"]["train/loss"]) == 4


def wandb_run(content: bytes, kind: Any) -> tuple[str, dict[str, dict[int, float]]]:
    """The name of an offline run, a LevelDB log of messages of `kind`, and its numbers: quantity → step → value."""
    name, told = "", dict[str, dict[int, float]]()
    at, message = 7, b""
    while at + 7 <= len(content):
        left_in_block = 2**15 - at % 2**15
        if left_in_block < 7:
            at += left_in_block
            continue
        length, part = struct.unpack_from("<HB", content, at + 4)
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last of several
            record = kind()
            record.ParseFromString(message)
            message = b""
            name = record.run.display_name or name
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for quantity, value in row.items():
                if isinstance(value, int | float):
                    told.setdefault(quantity, {})[row["train/global_step"]] = value
    return name, told
