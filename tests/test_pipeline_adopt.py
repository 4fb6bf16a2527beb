"""A profile from a sentence: what `commands.adopt` writes is sound and runs; what it cannot do it says and undoes."""

from __future__ import annotations

import difflib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import adopt, adopt_estimate, check
from commands.adopt_models import Models
from commands.adopt_recipe import SIZES, Adoption, profile_text, size_of
from commands.methods import read_methods
from distill.project.references import Reference
from distill.project.settings import read_yaml
from distill.text.tokenizers import learn_bpe
from stages import base, evalset, prepare
from tests.test_data_prompts import CHAT, tokenizer
from tests.tiny_models import tiny_model
from tests.tiny_pipeline import ROOT, Stage, edit, in_folder
from tests.training_stages import sft

ROWS = [{"instruction": f"Say {i}.", "input": "now" * (i % 2), "output": f"{i} it is."} for i in range(60)]
SENTENCE = ("--name", "mine", "--teacher", "teacher", "--student", "student", "--data", "my.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's settings, two models of one tokenizer and a user's rows."""
    root = tmp_path_factory.mktemp("adopt")
    for folder in ("profiles", "evalsets", "labelsets", "judge"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "distill/world").mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, root / file)
    for name, width, rows in (("teacher", 24, 292), ("student", 16, 264)):
        model = tiny_model("llama", vocabulary=rows, width=width, dtype=torch.float32, max_position_embeddings=256)
        model.save_pretrained(root / name)
        tokenizer(CHAT).save_pretrained(root / name)
    (root / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


@pytest.fixture(autouse=True)
def rough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rough prices instead of measured ones, which take seconds."""
    monkeypatch.setattr(adopt_estimate, "measured_here", lambda found, *_: found)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.fixture
def run(root: Path) -> Stage:
    return in_folder(root)


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refusal(run: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(adopt.main, *arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "written and sound" not in said.out
    return said.err


def test_the_sentence_gives_a_family_that_runs(root: Path, run: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    before = (root / "params.yaml").read_text()
    run(adopt.main, *SENTENCE)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "  make repro"
    assert "tiny too; with --only it would not" in said
    after = (root / "params.yaml").read_text()
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] != " "]
    assert changes == [
        "+   mine-student: {family: mine}",
        "+   mine: adopted/mine",
        "+   mine_test: adopted/mine/test.jsonl",
    ], "everything else in params.yaml stays as it is written"
    run(check.main)
    kept = {name: (root / f"adopted/mine/{name}.jsonl").read_text().splitlines() for name in ("train", "test")}
    assert (len(kept["train"]), len(kept["test"])) == (54, 6)
    assert {json.loads(line)["instruction"] for part in kept.values() for line in part} == {
        row["instruction"] for row in ROWS
    }
    profile = read_yaml(root / "profiles/mine.yaml")["recipe"]
    assert profile["prompt"]["chat_template"] is True
    limits = ("max_prompt_tokens", "max_response_tokens", "max_sequence_tokens")
    assert [profile["prompt"][limit] for limit in limits] == [128, 128, 256]
    assert profile["tokenizer"]["eos_token"] == "<end>"
    assert profile["students"]["mine-student"]["minillm"]["max_steps"] == 32
    edit(root / "profiles/mine.yaml", "recipe.teacher.sft.epochs", 1)
    for main, who in ((prepare.main, "mine"), (evalset.main, "mine_test"), (base.main, "mine")):
        run(main, who)
    run(base.main, "mine-student")
    run(sft.main, "mine", "teacher")
    assert (root / "runs/mine/teacher/model.safetensors").exists()


def test_only_takes_the_other_rows_out_of_the_table(root: Path, run: Stage) -> None:
    run(adopt.main, *SENTENCE, "--only", "--teacher-is-finished", "--corpus", "my.jsonl")
    params = read_yaml(root / "params.yaml")
    assert params["students"] == {"mine-student": {"family": "mine"}}
    assert params["families"] == {"mine": "adopted/mine"}
    assert params["datasets"] == {"mine_test": "adopted/mine/test.jsonl"}
    text = (root / "params.yaml").read_text()
    for comment in (
        "# A row: a student and the family",
        "# where a family's training rows come from",
        "# sets answered",
    ):
        assert comment in text
    assert "# in-distribution" not in text, "a comment of a row goes with it"
    profile = read_yaml(root / "profiles/mine.yaml")["recipe"]
    assert profile["teacher"] == {"model": None, "from": {"path": "teacher"}}
    assert profile["students"]["mine-student"]["minillm"]["lm_coef"] == 1.0
    run(check.main)


def test_own_test_rows_and_other_field_names(root: Path, run: Stage) -> None:
    rows = "".join(json.dumps({"question": row["instruction"], "answer": row["output"]}) + "\n" for row in ROWS)
    (root / "rows").mkdir()
    for name in ("train", "test"):
        (root / f"rows/{name}.jsonl").write_text(rows)
    sentence = list(SENTENCE)
    sentence[-1] = "rows/train.jsonl"
    run(adopt.main, *sentence, "--test", "rows/test.jsonl", "--fields", "instruction=question,output=answer")
    assert not (root / "adopted").exists()
    assert read_yaml(root / "params.yaml")["families"]["mine"] == "rows/train.jsonl"
    run(prepare.main, "mine")
    run(evalset.main, "mine_test")
    assert (root / "evaluation/mine_test.jsonl").read_text().count("\n") == 60


FAULTS: list[tuple[tuple[str, ...], str]] = [
    (("--name", "toy"), "profiles/toy.yaml, families.toy of params.yaml: there already; choose another --name"),
    (("--name", "tin.y"), "--name tin.y: use letters, digits, `_` and `-` only"),
    (("--teacher", "Qwen/Qwen2.5-7B"), "a hub id needs its commit: write Qwen/Qwen2.5-7B@<the 40 digits that `git"),
    (("--teacher", "Qwen/Qwen2.5-7B@main"), "`revision: main` may move; pin the 40 digits"),
    (("--teacher", "nowhere"), "the tokenizer folder nowhere does not exist"),
    (("--teacher", "other"), "train this one by SeqKD in a family of its own"),
    (("--teacher", "no_model"), "no_model is no causal language model that can be read"),
    (("--data", "none.jsonl"), "none.jsonl does not exist; correct the path or put the file there"),
    (("--data", "few.jsonl"), "few.jsonl has 3 usable rows, too few to train, validate and test on; give more"),
    (("--fields", "output=answer"), "has no field for `output: answer`"),
    (("--fields", "outputs=answer"), "--fields.outputs is not a setting; did you mean `output`?"),
    (("--corpus", "none.txt"), "none.txt does not exist; correct the path"),
    (
        ("--student", "pickled"),
        "it would not pass the check:\n  profiles/mine.yaml: recipe.students.mine-student.model",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), FAULTS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_adopted_changes_nothing(
    root: Path, run: Stage, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    (root / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    learn_bpe(["Quite another text."] * 9, 300).save_pretrained(root / "other")
    tokenizer(CHAT).save_pretrained(root / "no_model")
    shutil.copytree(root / "student", root / "pickled")
    (root / "pickled/model.safetensors").rename(root / "pickled/pytorch_model.bin")
    before = content(root)
    chosen = dict(zip(SENTENCE[::2], SENTENCE[1::2], strict=True)) | {arguments[0]: arguments[1]}
    assert said in refusal(run, capsys, *[part for pair in chosen.items() for part in pair])
    assert content(root) == before


def test_nothing_is_overwritten(root: Path, run: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    run(adopt.main, *SENTENCE)
    before = content(root)
    capsys.readouterr()
    assert "profiles/mine.yaml, evalsets/mine_test.yaml" in refusal(run, capsys, *SENTENCE)
    assert content(root) == before


# --- the recipe by size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "rate", "epochs"),
    [
        (124_439_808, "5e-4", 20),  # GPT-2
        (354_823_168, "1e-4", 20),  # GPT-2 medium
        (774_030_080, "1e-4", 20),  # GPT-2 large
        (1_315_758_080, "5e-5", 10),  # OPT 1.3B
        (1_557_611_200, "5e-5", 10),  # GPT-2 XL
        (6_738_415_616, "1e-5", 10),  # LLaMA 7B
        (13_015_864_320, "1e-5", 10),  # LLaMA 13B
    ],
)
def test_rates_and_epochs_are_those_of_the_papers_profiles(parameters: int, rate: str, epochs: int) -> None:
    assert (size_of(parameters).rate, size_of(parameters).epochs) == (rate, epochs)


def test_the_sizes_agree_with_the_profiles_of_the_paper() -> None:
    sizes = {"gpt2-base": 124e6, "gpt2-medium": 355e6, "gpt2-large": 774e6, "opt-1b3": 1.3e9, "opt-6b7": 6.7e9}
    for family in ("gpt2", "opt"):
        for name, student in read_yaml(ROOT / f"profiles/{family}.yaml")["recipe"]["students"].items():
            if name in sizes:
                size = size_of(int(sizes[name]))
                assert student["sft"]["learning_rate"] == float(size.rate), name
                assert student["sft"]["epochs"] == size.epochs, name
    assert [size.below for size in SIZES] == sorted(size.below for size in SIZES)


@pytest.mark.parametrize(("rows", "steps"), [(12_000, 5000), (1_000, 560), (30, 16)])
def test_minillm_takes_the_papers_steps_or_ten_passes(rows: int, steps: int) -> None:
    found = adoption(rows=rows)
    assert found.steps == steps
    assert f"max_steps: {steps}," in profile_text(found)


def adoption(**given: Any) -> Adoption:
    from distill.data.rows import Fields

    chosen: dict[str, Any] = {
        "name": "mine",
        "teacher": Reference(path="teacher"),
        "student": Reference(path="student"),
        "finished_teacher": False,
        "models": Models(1_557_611_200, 124_439_808, 1024, chat=False, end_of_turn=None),
        "train": "train.jsonl",
        "rows": 1000,
        "fields": Fields(),
        "corpus": None,
        "methods": tuple(read_methods(ROOT / "dvc.yaml")[name] for name in ("sft", "minillm")),
    }
    return Adoption(**chosen | given)


def test_without_a_chat_template_the_prompt_is_the_papers() -> None:
    text = profile_text(adoption())
    paper = (ROOT / "profiles/gpt2.yaml").read_text()
    for line in text.splitlines():
        if line.strip().startswith(("with_input", "without_input", "max_")) and "steps" not in line:
            assert line in paper, line
    assert "chat_template" not in text
    assert all(len(line) <= 120 for line in text.splitlines() if "_input" not in line), "longer than a screen"
