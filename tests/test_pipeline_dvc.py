"""What DVC re-runs, restores and shows, on a small clone of the pipeline and with DVC's own commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.declared_stages import SECONDS, Stage, needed_files, read_pipeline
from tests.tiny_pipeline import PROFILE, built, dvc, edit, git, results, set_methods, stale, weights

MINI = "profiles/mini.yaml"
CELLS = ("responses", "rouge")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory)


@pytest.fixture(scope="module")
def clone(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built clone in which a test may change settings and code, but runs nothing."""
    return Path(shutil.copytree(reference, tmp_path_factory.mktemp("clone") / "repository"))


@contextmanager
def changed(*files: Path) -> Iterator[None]:
    """Put the files back afterwards."""
    before = {file: file.read_bytes() for file in files}
    try:
        yield
    finally:
        for file, content in before.items():
            file.write_bytes(content)


def stages_running(root: Path, file: str) -> set[str]:
    """The stages whose command imports a file, from the source alone; those of seconds, a file of its folder."""

    def runs(stage: Stage) -> bool:
        if stage.block in SECONDS:
            return any(Path(file).is_relative_to(dep) for dep in stage.deps)
        return Path(file) in needed_files(stage, root)

    return {stage.name for stage in read_pipeline(root) if runs(stage)}


# --- what is up to date -------------------------------------------------------------------------------


def test_a_second_repro_runs_nothing(clone: Path) -> None:
    said = dvc(clone, "repro")
    assert "Running stage" not in said
    assert said.endswith("Data and pipelines are up to date.\n")
    assert not git(clone, "status", "--porcelain")


def test_a_setting_concerns_its_stage_alone(clone: Path) -> None:
    with changed(clone / MINI):
        edit(clone / MINI, "recipe.students.small.minillm.teacher_mix_alpha", 0.3)
        assert set(stale(clone)) == {"minillm@small"}


def test_nothing_is_rebuilt_for_another_machine_or_for_orchestration(clone: Path) -> None:
    with changed(clone / MINI, clone / "flows/rebuild.py"):
        for name, value in {"threads": 2, "micro_batch": 4, "decode_batch": 16, "save_every": 50}.items():
            edit(clone / MINI, f"hardware.{name}", value)
        (clone / "flows/rebuild.py").write_text((clone / "flows/rebuild.py").read_text() + "# A comment.\n")
        assert stale(clone) == {}


@pytest.mark.parametrize(
    ("file", "some"),
    [
        ("distill/objectives/minillm/objective.py", {"minillm@small"}),
        ("distill/training/supervised.py", {"teacher_base@mini", "teacher@mini", "sft@small", "init@small"}),
        ("distill/text/rouge.py", {"rouge@small-sft-toy_id", "sft@small", "responses@small-sft-toy_id"}),
        ("distill/evaluation/divergence.py", {"teacher_samples@mini", "divergence@small-sft"}),
        ("distill/analyses/exposure.py", {"results@small"}),
        ("distill/scoring/tables.py", {"report"}),
        ("distill/world/lore.py", {"prepare@mini"}),
    ],
)
def test_a_module_concerns_the_stages_that_import_it(clone: Path, file: str, some: set[str]) -> None:
    importing = stages_running(clone, file)
    assert some <= importing
    with changed(clone / file):
        (clone / file).write_text((clone / file).read_text() + "# A comment.\n")
        assert set(stale(clone)) == importing


def test_an_evaluation_set_adds_its_cells(clone: Path) -> None:
    with changed(clone / "params.yaml"):
        edit(clone / "params.yaml", "datasets.toy_shift", "data/mini/tests/toy_shift.jsonl")
        found = set(stale(clone))
    cells = {"teacher_responses@mini-teacher-toy_shift", "teacher_rouge@mini-teacher-toy_shift"}
    cells |= {f"{kind}@small-{method}-toy_shift" for kind in CELLS for method in ("sft", "minillm")}
    assert found == {"evalset@toy_shift", *cells, "results@small", "report"}


def test_a_method_adds_its_cells(clone: Path) -> None:
    with changed(clone / "params.yaml"):
        set_methods(clone, "sft", "minillm", "kd")
        found = set(stale(clone))
    cells = {"responses@small-kd-toy_id", "rouge@small-kd-toy_id", "divergence@small-kd", "calibration@small-kd"}
    assert found == {"kd@small", *cells, "results@small", "report"}


def test_how_numbers_are_told_concerns_no_stage_that_runs_a_model(clone: Path) -> None:
    models = {stage.name for stage in read_pipeline(clone) if stage.gpus}
    assert {"responses@small-sft-toy_id", "divergence@small-sft", "teacher_calibration@mini-teacher"} <= models
    with changed(clone / "params.yaml"):
        edit(clone / "params.yaml", "labels.sft", "Fine-tuned")
        assert set(stale(clone)) == {"results@small"}  # whose summary the report reads
    for file in ("scoring/names.py", "scoring/drawing.py", "scoring/paired.py", "analyses/calibration.py"):
        with changed(clone / "distill" / file):
            (clone / "distill" / file).write_text((clone / "distill" / file).read_text() + "# A comment.\n")
            assert set(stale(clone)) == {"results@small", "report"}, file
    with changed(clone / "distill/scoring/statistics.py"):
        (clone / "distill/scoring/statistics.py").write_text("# A comment.\n")
        found = set(stale(clone))
    assert not found & models
    assert {name for name in found if not name.startswith(("rouge@", "teacher_rouge@"))} == {"results@small", "report"}


def test_a_student_adds_its_stages(clone: Path) -> None:
    with changed(clone / "params.yaml", clone / MINI):
        recipe = PROFILE[PROFILE.index("    small:\n") : PROFILE.index("hardware:")].replace("small:", "other:")
        (clone / MINI).write_text(PROFILE.replace("hardware:", recipe + "hardware:"))
        edit(clone / "params.yaml", "students.other", {"family": "mini"})
        found = set(stale(clone))
    own = {stage.name.replace("small", "other") for stage in read_pipeline(clone) if "small" in stage.name}
    # `methods` holds the rows of all students, so that gathering runs again for those that are there: seconds.
    assert found == own | {"results@small", "report"}


# --- a changed setting, end to end --------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A clone rebuilt after one setting of MiniLLM changed, and what `dvc repro` said."""
    root = Path(shutil.copytree(reference, tmp_path_factory.mktemp("experiment") / "repository"))
    edit(root / MINI, "recipe.students.small.minillm.teacher_mix_alpha", 0.6)
    return root, dvc(root, "repro")


def test_what_is_below_a_changed_stage_runs_again(experiment: tuple[Path, str]) -> None:
    _, said = experiment
    assert set(re.findall(r"^Running stage '(.*)':$", said, re.MULTILINE)) == {
        "minillm@small",
        "responses@small-minillm-toy_id",
        "rouge@small-minillm-toy_id",
        "divergence@small-minillm",
        "calibration@small-minillm",
        "results@small",
        "report",
    }


def test_dvc_shows_what_came_of_it(experiment: tuple[Path, str]) -> None:
    root, _ = experiment
    metrics = json.loads(dvc(root, "metrics", "diff", "--json"))["results/small.json"]
    assert all(name.startswith("minillm.") for name in metrics)
    assert metrics["minillm.kl.reverse_kl.mean"].keys() == {"old", "new", "diff"}
    params = json.loads(dvc(root, "params", "diff", "--json"))
    name = "recipe.students.small.minillm.teacher_mix_alpha"
    assert params == {MINI: {name: {"old": 0.2, "new": 0.6, "diff": pytest.approx(0.4)}}}
    plots = json.loads(dvc(root, "plots", "diff", "--json"))["data"]
    curve = plots["runs/small/minillm.curves/reverse_kl.tsv"][0]
    assert set(curve["revisions"]) == {"HEAD", "workspace"}
    assert {point["rev"] for point in curve["content"]["data"]["values"]} == {"HEAD", "workspace"}


def test_a_setting_put_back_is_restored_and_not_rebuilt(experiment: tuple[Path, str], reference: Path) -> None:
    root, _ = experiment
    git(root, "checkout", "--quiet", MINI)
    ran = re.findall(r"^Running stage '(.*)':$", dvc(root, "repro"), re.MULTILINE)
    assert not [stage for stage in ran if stage.startswith(("minillm", "responses", "divergence"))], ran
    assert weights(root) == weights(reference)
    assert results(root) == results(reference)


# --- what a person sees -------------------------------------------------------------------------------


def test_metrics_are_nested_by_model_and_set(reference: Path) -> None:
    said = dvc(reference, "metrics", "show", "--json")
    shown = json.loads(said[said.index("{") :])[""]["data"]["results/small.json"]["data"]
    written = json.loads((reference / "results/small.json").read_text())
    assert set(shown) == set(written) == {"teacher", "sft", "minillm"}
    for name, model in shown.items():
        assert model["toy_id"]["rouge_l"].keys() >= {"mean", "std"}
        assert "mean" in model["toy_id"]["exact_match"]
        # DVC shows numbers; lists are in the file alone.
        assert len(written[name]["toy_id"]["rouge_l"]["per_seed"]) == 2
    assert {"reverse_kl", "forward_kl"} <= shown["minillm"]["kl"].keys()


def test_a_fresh_clone_knows_the_metrics(reference: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(reference), "fresh")
    table = dvc(tmp_path / "fresh", "metrics", "show", "--md")
    assert "results/small.json" in table
    assert "minillm.toy_id.rouge_l.mean" in table


def test_training_curves_are_plots(reference: Path) -> None:
    shown = json.loads(dvc(reference, "plots", "show", "--json"))
    assert not shown.get("errors")
    for folder, quantities in {
        "runs/mini/teacher.curves": ("loss", "valid_rouge_l", "valid_loss", "learning_rate"),
        "runs/small/sft.curves": ("loss", "valid_rouge_l", "learning_rate"),
        "runs/small/minillm.curves": ("loss", "policy", "single_step", "reverse_kl", "valid_rouge_l", "learning_rate"),
    }.items():
        for quantity in quantities:
            plot: dict[str, Any] = shown["data"][f"{folder}/{quantity}.tsv"][0]["content"]
            points = plot["data"]["values"]
            assert points
            assert all(float(point[quantity]) == float(point[quantity]) for point in points), "a curve holds NaN"
            steps = [int(point["step"]) for point in points]
            assert steps == sorted(set(steps))


def test_the_report_draws_the_curves_without_a_network(reference: Path) -> None:
    page = (reference / "results/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 8
    for quantity in ("Reverse KL", "Loss", "Learning rate"):
        assert quantity.lower() in page.lower()
    fetched = re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*["']?(?!data:|#)([^"'> ]+)""", page)
    fetched += re.findall(r"""(?:@import|url\()\s*["']?(https?:[^"') ]+)""", page)
    assert not fetched


def test_plain_transformers_loads_every_model(reference: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for folder in ("mini/teacher", "mini/base", "small/base", "small/init", "small/sft", "small/minillm"):
        path = reference / "runs" / folder
        assert {file.suffix for file in path.iterdir()} <= {".json", ".safetensors", ".jinja", ".txt"}
        model = AutoModelForCausalLM.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        prompt = tokenizer("Say hello.\n", return_tensors="pt")
        assert model(**prompt).logits.isfinite().all()
