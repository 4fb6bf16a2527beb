"""Finished checkpoints in the place of stages that would train them: the teacher's, a student's, all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from commands import check
from distill.models.lora import add_adapter, save_adapter
from distill.models.settings import LoraSettings
from distill.project.settings import read_yaml
from distill.text.tokenizers import learn_bpe, load_tokenizer
from stages import base, evalset, prepare, pseudo, respond
from tests.tiny_models import tiny_model
from tests.tiny_pipeline import (
    DELETED,
    MINI,
    ROOT,
    SMALL,
    Stage,
    edit,
    in_folder,
    set_methods,
    write_settings,
    write_table,
)
from tests.training_stages import kd, minillm, seqkd, sft


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the small pipeline, and finished models from elsewhere in `given/`: teacher, sft, minillm, plain."""
    root = tmp_path_factory.mktemp("prepared")
    write_settings(root)
    shutil.copytree(ROOT / "evalsets", root / "evalsets")
    shutil.copy(ROOT / "dvc.yaml", root / "dvc.yaml")
    run = in_folder(root)
    run(prepare.main, "mini")
    run(evalset.main, "toy_id")
    tokenizer = load_tokenizer(root / "data/mini/tokenizer")
    for seed, name in enumerate(("teacher", "sft", "minillm", "plain")):
        # The teacher's vocabulary is padded, as larger models' are.
        rows = len(tokenizer) + (28 if name == "teacher" else 0)
        given(root / "given" / name, rows, seed)
        tokenizer.save_pretrained(root / "given" / name)
    return root


def given(folder: Path, rows: int, seed: int) -> PreTrainedModel:
    model = tiny_model(vocabulary=rows, seed=seed, spread=0.02, dtype=torch.float32, n_positions=256)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "project"))


@pytest.fixture
def stage(project: Path) -> Stage:
    return in_folder(project)


def take(project: Path, place: str, source: Any) -> None:
    edit(project / MINI, place, {"from": source})


def teacher_from(project: Path, source: Any) -> None:
    edit(project / MINI, "recipe.teacher", {"from": source, "model": None})


def curve(project: Path, name: str) -> str:
    return (project / f"runs/{name}.curves/valid_rouge_l.tsv").read_text()


def pointed_to(checkpoint: Path) -> Any:
    """The folder that a checkpoint points to; it holds no weights of its own."""
    assert not list(checkpoint.glob("*.safetensors")), "a finished model is copied"
    return json.loads((checkpoint / "reference.json").read_text())["path"]


def refusal(stage: Stage, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        stage(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_finished_teacher_is_taken_and_everything_after_it_goes_on(
    project: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher_from(project, "given/teacher")
    stage(base.main, "mini")
    stage(sft.main, "mini", "teacher")
    # Its weights are random.
    assert "warning: teacher@mini as it was taken: no better than guessing" in capsys.readouterr().out
    assert pointed_to(project / "runs/mini/teacher") == "given/teacher"
    assert (project / "runs/mini/teacher.run.json").exists()
    [heading, point] = curve(project, "mini/teacher").splitlines()
    assert heading == "step\tvalid_rouge_l"
    assert point.startswith("0\t")
    stage(base.main, "small")
    stage(kd.main, "small", "kd")
    stage(sft.main, "small", "init")
    stage(minillm.main, "small", "minillm")
    stage(respond.main, "mini", "teacher", "toy_id")
    assert (project / "responses/mini/teacher/toy_id.jsonl").read_text().count("\n") == 10


def test_a_students_checkpoint_is_taken_for_any_method(project: Path, stage: Stage) -> None:
    teacher_from(project, "given/teacher")
    edit(project / MINI, f"{SMALL}.model", None)
    for method in ("init", "sft"):
        take(project, f"{SMALL}.{method}", "given/sft")
    take(project, f"{SMALL}.minillm", {"path": "given/minillm"})
    edit(project / MINI, f"{SMALL}.kd", None)
    edit(project / MINI, "recipe.pseudo", None)
    stage(base.main, "small")
    stage(sft.main, "small", "sft")
    stage(kd.main, "small", "kd")
    stage(minillm.main, "small", "minillm")
    stage(pseudo.main, "mini")
    assert pointed_to(project / "runs/small/minillm") == "given/minillm"
    meta = json.loads((project / "runs/small/minillm/meta.json").read_text())
    assert meta["settings"]["source"]["path"] == "given/minillm"
    assert meta["prompt"]["max_response_tokens"] == 24
    assert [p.name for p in (project / "runs/small/kd").iterdir()] == ["meta.json"]
    # DVC warns of an empty folder.
    assert (project / "runs/small/kd.curves/valid_loss.tsv").read_text() == "step\tvalid_loss\n"
    stage(respond.main, "small", "minillm", "toy_id")


def test_minillm_starts_from_a_taken_init(project: Path, stage: Stage) -> None:
    teacher_from(project, "given/teacher")
    take(project, f"{SMALL}.init", "given/sft")
    stage(sft.main, "mini", "teacher")
    stage(sft.main, "small", "init")
    edit(project / MINI, f"{SMALL}.minillm.max_steps", 1)
    edit(project / MINI, f"{SMALL}.minillm.evaluate_every", 1)
    edit(project / MINI, f"{SMALL}.minillm.learning_rate", 1e-6)
    stage(minillm.main, "small", "minillm")
    start = load_file(project / "given/sft/model.safetensors")
    end = load_file(project / "runs/small/minillm/model.safetensors")
    assert max(float((end[name] - tensor).abs().max()) for name, tensor in start.items()) < 1e-5


def test_a_checkpoint_may_be_an_adapter_of_a_model(project: Path, stage: Stage) -> None:
    model = given(project / "given/base", 400, 9)
    load_tokenizer(project / "data/mini/tokenizer").save_pretrained(project / "given/base")
    add_adapter(model, LoraSettings(r=2), 0)
    save_adapter(model, project / "given/adapter", None)
    teacher_from(project, {"path": "given/base", "adapter": "given/adapter"})
    stage(sft.main, "mini", "teacher")
    assert pointed_to(project / "runs/mini/teacher") == "given/base"
    teacher_from(project, {"path": "given/base", "adapter": "given/adapter"})
    edit(project / MINI, "recipe.teacher.copy", True)
    stage(sft.main, "mini", "teacher")
    config = json.loads((project / "runs/mini/teacher/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "given/base"
    assert (project / "runs/mini/teacher/model.safetensors").exists()


@pytest.mark.parametrize("named", ["given/teacher", "given/pointer"])
def test_other_weights_in_the_place_of_the_teachers_are_another_checkpoint(
    project: Path, stage: Stage, named: str
) -> None:
    (project / "given/pointer").mkdir()
    (project / "given/pointer/reference.json").write_text(json.dumps({"path": "given/teacher"}))
    teacher_from(project, named)
    metas = []
    for seed in (0, 0, 1):
        given(project / "given/teacher", 428, seed)
        stage(sft.main, "mini", "teacher")
        metas.append((project / "runs/mini/teacher/meta.json").read_text())
    assert metas[0] == metas[1] != metas[2]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("given/nowhere", "the tokenizer folder given/nowhere does not exist"),
        ("MiniLLM/teacher-gpt2-1.5B", "the tokenizer folder MiniLLM/teacher-gpt2-1.5B does not exist"),
        ({"hub": "MiniLLM/teacher-gpt2-1.5B", "revision": "main"}, "or write `unpinned: true` beside it"),
        ({"path": "given/other"}, "differ in"),
        ({"path": "given/short"}, "rows and the tokenizer ids up to 399; use the tokenizer that belongs to the model"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    project: Path, stage: Stage, capsys: pytest.CaptureFixture[str], source: Any, said: str
) -> None:
    given(project / "given/other", 300, 0)
    learn_bpe(["Quite another text, of other words and syllables."] * 9, 300).save_pretrained(project / "given/other")
    given(project / "given/short", 390, 0)
    load_tokenizer(project / "data/mini/tokenizer").save_pretrained(project / "given/short")
    teacher_from(project, source)
    assert said in refusal(stage, capsys, sft.main, "mini", "teacher")
    assert not (project / "runs").exists()


# --- what the settings say of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("recipe.teacher.from", "given/teacher", "give exactly one of `sft` and `from`"),
        ("recipe.teacher.sft", DELETED, "give exactly one of `sft` and `from`"),
        ("recipe.teacher.model", None, "a teacher that is fine-tuned needs a `model`"),
        (f"{SMALL}.model", None, "`model` is null but init, sft, kd, seqkd, seqkd_multi is trained from it; give it"),
        (f"{SMALL}.init", None, "`init` is null but minillm, single_step starts from it; give it, or `from` there"),
        (f"{SMALL}.sft", None, "small.sft is null, so there is nothing to evaluate; give the section, or take `sft`"),
        (f"{SMALL}.sft.from", "given/sft", "recipe.students.small.sft.learning_rate is not a setting"),
        (f"{SMALL}.sft", {"from": "owner/name@main"}, "`revision: main` may move; pin the 40 digits that `git ls-rem"),
        (f"{SMALL}.minillm.lora", {"r": 4, "dropout": 0.1}, "set `lora.dropout: 0`"),
        (f"{SMALL}.sft.lora", {"rank": 4}, "recipe.students.small.sft.lora.rank is not a setting"),
    ],
)
def test_faults(project: Path, capsys: pytest.CaptureFixture[str], place: str, value: Any, said: str) -> None:
    whole_params(project)
    edit(project / MINI, place, value)
    assert said in refusal(in_folder(project), capsys, check.main)


def whole_params(project: Path) -> None:
    """What `commands.check` wants beyond what the stages here read."""
    shutil.copy(ROOT / "params.yaml", project / "params.yaml")
    for folder in ("labelsets", "judge"):
        shutil.copytree(ROOT / folder, project / folder)
    write_table(project)


def test_the_released_checkpoints_profile_runs_on_local_folders(project: Path, stage: Stage) -> None:
    """profiles/gpt2_released.yaml as it is, but for where models, tokenizer and rows are."""
    whole_params(project)
    profile = project / "profiles/gpt2_released.yaml"
    shutil.copy(ROOT / "profiles/gpt2_released.yaml", profile)
    content = read_yaml(profile)["recipe"]
    assert content["teacher"]["from"]["hub"] == "MiniLLM/teacher-gpt2-1.5B"
    edit(profile, "recipe.teacher.from", {"path": "given/teacher"})
    places = {"sft": "sft", "kd": "plain", "seqkd": "plain", "minillm": "minillm"}
    for student, sections in content["students"].items():
        size = student.removeprefix("released-")
        for method, folder in places.items():
            prefix = {"sft": "SFT", "kd": "KD", "seqkd": "SeqKD", "minillm": "MiniLLM"}[method]
            assert sections[method]["from"]["hub"] == f"MiniLLM/{prefix}-gpt2-{size}"
            edit(profile, f"recipe.students.{student}.{method}.from", {"path": f"given/{folder}"})
    edit(profile, "recipe.tokenizer.source", "given/plain")
    edit(profile, "recipe.data", {"world": {"train": 20, "valid": 4, "test": 4, "documents": 0}, "rows": {}})
    edit(profile, "recipe.data.rows", {"teacher": None, "student": None})
    edit(profile, "recipe.prompt.max_response_tokens", 16)
    edit(project / "params.yaml", "students", {"released-120M": {"family": "gpt2_released"}})
    edit(project / "params.yaml", "families", {"gpt2_released": "distill/world"})
    set_methods(project, "sft", "kd", "seqkd", "minillm")
    stage(check.main)
    stage(prepare.main, "gpt2_released")
    stage(base.main, "gpt2_released")
    stage(sft.main, "gpt2_released", "teacher")
    stage(pseudo.main, "gpt2_released")
    who = "released-120M"
    stage(base.main, who)
    for main, methods in ((sft.main, ("init", "sft")), (kd.main, ("kd",)), (seqkd.main, ("seqkd", "seqkd_multi"))):
        for method in methods:
            stage(main, who, method)
    for method in ("minillm", "single_step"):
        stage(minillm.main, who, method)
    for method, folder in places.items():
        assert pointed_to(project / f"runs/{who}/{method}") == f"given/{folder}"
        stage(respond.main, who, method, "toy_id")
    answers = [(project / f"responses/{who}/{method}/toy_id.jsonl").read_text() for method in ("sft", "minillm")]
    assert answers[0] != answers[1]
