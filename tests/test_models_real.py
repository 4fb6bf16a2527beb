"""A language model that was trained elsewhere, from adopt to a distilled student that is cut from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from commands import adopt, check
from distill.models.loading import load_model
from distill.project.settings import read_yaml
from stages import base, evalset, prepare, respond
from tests.tiny_pipeline import ROOT, edit, in_folder
from tests.training_stages import minillm, sft

NAMES = ("Lily", "Tom", "Anna", "Ben", "Mia", "Sam")
THINGS = ("red ball", "big dog", "small cat", "blue bird", "old tree", "new toy")
ROWS = [
    {
        "instruction": f"Tell a story about {name} and a {thing}.",
        "output": f"Once upon a time, there was a little child named {name}. {name} saw a {thing} and was very happy.",
    }
    for name in NAMES
    for thing in THINGS
]


def test_a_story_model_and_a_student_cut_from_it(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "project"
    for folder in ("profiles", "evalsets", "labelsets", "judge"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "distill/world").mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, root / file)
    shutil.copytree(shared_data / "models/aidreams260K", root / "stories")
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = in_folder(root)
    run(
        adopt.main, "--name", "tales", "--teacher", "stories", "--student-layers", "3", "--data", "rows.jsonl", "--only"
    )
    said = capsys.readouterr().out
    assert "teacher   stories, 230,976 parameters" in said
    assert "worse than guessing at random" not in said
    profile = root / "profiles/tales.yaml"
    student = read_yaml(profile)["recipe"]["students"]["tales-student"]
    assert len(student["model"]["drop_layers"]) == 1
    for place in ("teacher.sft", "students.tales-student.init"):
        edit(profile, f"recipe.{place}.epochs", 1)
    changed = {"max_steps": 2, "warmup_steps": 0, "rollouts": 8, "minibatch": 4, "inner_epochs": 1, "evaluate_every": 2}
    for key, value in changed.items():
        edit(profile, f"recipe.students.tales-student.minillm.{key}", value)
    edit(root / "params.yaml", "evaluation.seeds", [10])
    run(check.main)
    run(prepare.main, "tales")
    run(evalset.main, "tales_test")
    for who in ("tales", "tales-student"):
        run(base.main, who)
    looks = {
        who: json.loads((root / f"runs/{who}/base.run.json").read_text())["first_look"]
        for who in ("tales", "tales-student")
    }
    # It knows stories and no instructions; the cut can only cost.
    assert looks["tales"]["loss"] < looks["tales-student"]["loss"] < looks["tales"]["uniform"]
    run(sft.main, "tales", "teacher")
    run(sft.main, "tales-student", "init")
    run(minillm.main, "tales-student", "minillm")
    run(respond.main, "tales-student", "minillm", "tales_test")
    assert load_model(root / "runs/tales-student/minillm").config.num_hidden_layers == 3
    answers = [json.loads(line) for line in (root / "responses/tales-student/minillm/tales_test.jsonl").open()]
    assert all(answer["tokens"] for answer in answers)
