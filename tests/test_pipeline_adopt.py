"""A profile from a sentence: what `commands.adopt` writes is sound and runs; what it cannot do it says and undoes."""

from __future__ import annotations

import difflib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from commands import adopt, adopt_estimate, adopt_look, check
from commands.adopt_models import Models
from commands.adopt_rows import place_rows, read_given
from distill.data.rows import Fields
from distill.preflight.machine import Machine
from distill.project.references import Reference
from distill.project.settings import read_yaml
from distill.text.settings import PromptSettings
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
    assert [profile["prompt"][limit] for limit in limits] == [32, 16, 48], "tokens are bytes"
    assert profile["data"]["test"] == {"path": "test.jsonl"}
    assert profile["tokenizer"]["eos_token"] == "<end>"
    assert profile["students"]["mine-student"]["minillm"]["max_steps"] == 32
    edit(root / "profiles/mine.yaml", "recipe.teacher.sft.epochs", 1)
    for main, who in ((prepare.main, "mine"), (evalset.main, "mine_test"), (base.main, "mine")):
        run(main, who)
    run(base.main, "mine-student")
    run(sft.main, "mine", "teacher")
    assert (root / "runs/mine/teacher/model.safetensors").exists()


def test_only_takes_the_other_rows_out_of_the_table(root: Path, run: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root / "params.yaml", "judge.datasets", ["toy_id"])
    (root / "results").mkdir()
    (root / "results/tiny.json").write_text("{}")
    run(adopt.main, *SENTENCE, "--only", "--teacher-is-finished", "--corpus", "my.jsonl")
    said = capsys.readouterr().out
    assert "`git rm results/tiny.json` takes them out" in said and "the judge is off" in said
    params = read_yaml(root / "params.yaml")
    assert params["calibration"] == {} and params["judge"]["datasets"] == []
    assert params["students"] == {"mine-student": {"family": "mine"}}
    assert params["families"] == {"mine": "adopted/mine"}
    assert params["datasets"] == {"mine_test": "adopted/mine/test.jsonl"}
    text = (root / "params.yaml").read_text()
    for comment in (
        "# What is trained and evaluated. Every method",
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


def test_own_files_and_other_field_names(root: Path, run: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"question": row["instruction"], "answer": row["output"]}) + "\n" for row in ROWS]
    (root / "rows").mkdir()
    for name, part in (("train", rows[:50]), ("test", rows[40:])):
        (root / f"rows/{name}.jsonl").write_text("".join(part))
    sentence = [*SENTENCE[:-1], "rows/train.jsonl", "--test", "rows/test.jsonl"]
    sentence[sentence.index("teacher")] = "student"
    run(adopt.main, *sentence, "--fields", "instruction=question,output=answer")
    said = capsys.readouterr().out
    assert "warning   10 of 20 test rows ask what a training row asks" in said
    assert "warning   teacher and student are one model" in said
    assert not (root / "adopted").exists()
    assert read_yaml(root / "params.yaml")["families"]["mine"] == "rows/train.jsonl"
    run(prepare.main, "mine")
    report = json.loads((root / "data/mine/report.json").read_text())
    assert [report["splits"][name]["kept"] for name in ("train", "valid", "test")] == [45, 5, 20]
    across = report["duplicates"]["across"]
    assert sum(across[f"{name}/test"]["prompts"]["count"] for name in ("train", "valid")) == 10
    run(evalset.main, "mine_test")
    assert (root / "evaluation/mine_test.jsonl").read_text().count("\n") == 20


def test_validation_rows_in_a_file_are_put_where_dvc_watches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path(f"{name}.jsonl") for name in ("train", "test", "valid")]
    for file in files:
        file.write_text("".join(json.dumps({"q": row["instruction"], "a": row["output"]}) + "\n" for row in ROWS))
    given = read_given(files[0], files[1], files[2], "instruction=q,output=a")
    made: list[Path] = []
    placed = place_rows("mine", given, made)
    assert (placed.family, placed.fields) == (Path("adopted/mine"), Fields()) and made == [placed.family]
    assert (placed.train_path, placed.test_path, placed.valid_path) == ("train.jsonl", "test.jsonl", "valid.jsonl")
    assert placed.test == placed.family / "test.jsonl" and placed.training == given.train.rows
    for file in files:
        rows = [json.loads(line) for line in (placed.family / file).read_text().splitlines()]
        assert [(row["instruction"], row["output"]) for row in rows] == [(r["instruction"], r["output"]) for r in ROWS]


def test_conversations_are_found_and_no_prompt_is_on_both_sides(
    root: Path, run: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 conversations three times, some opened by a system turn, all with a question left unanswered."""
    turns = [
        [
            {"from": "human", "value": f"Where is {i}?"},
            {"from": "gpt", "value": f"On {i}."},
            {"from": "human", "value": "Ah."},
        ]
        for i in range(40)
    ]
    chats = [[{"from": "system", "value": "Be calm."}, *chat] if i % 4 == 0 else chat for i, chat in enumerate(turns)]
    chats.append([{"from": "human", "value": "And now?"}])
    (root / "my.jsonl").write_text("".join(json.dumps({"id": "x", "chat": chat}) + "\n" for chat in 3 * chats))
    run(adopt.main, *SENTENCE, "--valid", "my.jsonl")
    said = capsys.readouterr().out
    counts = "of my.jsonl: 3 no answer left out, 30 system turns unused, 120 later turns unused"
    assert counts in said and f"# {counts}" in (root / "profiles/mine.yaml").read_text()
    assert "ask what another asks; all rows of a prompt stay together" in said
    assert "validation rows ask what a training row asks" in said
    parts = {
        name: [json.loads(line) for line in (root / f"adopted/mine/{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test", "valid")
    }
    assert [len(parts[name]) for name in ("train", "test", "valid")] == [108, 12, 120]
    asked = {name: {row["instruction"] for row in rows} for name, rows in parts.items()}
    assert not asked["train"] & asked["test"]
    assert asked["valid"] == {f"Where is {i}?" for i in range(40)}
    assert read_yaml(root / "profiles/mine.yaml")["recipe"]["data"]["valid"] == {"path": "valid.jsonl", "limit": 1000}


FAULTS: list[tuple[tuple[str, ...], str]] = [
    (("--name", "toy"), "profiles/toy.yaml, families.toy of params.yaml: there already; choose another --name"),
    (("--name", "tin.y"), "--name tin.y: use letters, digits, `_` and `-` only"),
    (("--name", "n" * 300), "64 at most"),
    (("--data", "long.jsonl"), "30 of 30 rows have prompts over 240 tokens and would be left out: the models read 256"),
    (("--data", "chats.jsonl"), "chats.jsonl holds conversations in chosen and rejected; choose one"),
    (("--valid", "none.jsonl"), "none.jsonl does not exist; correct the path"),
    (("--test", "long.csv"), "long.csv has no field for `instruction: instruction`, `output: output`"),
    (("--teacher", "Qwen/Qwen2.5-7B"), "a hub id needs its commit: write Qwen/Qwen2.5-7B@<the 40 digits that `git"),
    (("--teacher", "Qwen/Qwen2.5-7B@main"), "`revision: main` may move; pin the 40 digits"),
    (("--teacher", "nowhere"), "--teacher nowhere: no such folder; correct the path"),
    (("--teacher", "n" * 300), "no such folder; correct the path, or give a hub id"),
    (("--teacher", "other"), "train this one by SeqKD in a family of its own"),
    (("--teacher", "no_model"), "no_model holds no model (no config.json)"),
    (("--data", "none.jsonl"), "none.jsonl does not exist; correct the path or put the file there"),
    (("--data", "few.jsonl"), "few.jsonl has 3 usable rows, too few to train, validate and test on; give more"),
    (("--fields", "output=answer"), "has no field for `output: answer`"),
    (("--fields", "outputs=answer"), "--fields.outputs is not a setting; did you mean `output`?"),
    (("--corpus", "none.txt"), "none.txt does not exist; correct the path"),
    (("--hours", "0"), "argument --hours: `0` is no time that work could fit; give hours, e.g. 1 or 0.5"),
    (
        ("--student", "pickled"),
        "pickled holds its weights as pickles (pytorch_model.bin)",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), FAULTS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_adopted_changes_nothing(
    root: Path, run: Stage, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    (root / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    long = [{"instruction": f"{i}" + "x" * 300, "output": "o"} for i in range(30)]
    (root / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    (root / "long.csv").write_text("question;answer\nQ;A\n")
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (root / "chats.jsonl").write_text((json.dumps({"chosen": chat, "rejected": chat}) + "\n") * 30)
    shutil.copytree(root / "student", root / "other")
    learn_bpe(["Quite another text."] * 9, 300).save_pretrained(root / "other")
    tokenizer(CHAT).save_pretrained(root / "no_model")
    shutil.copytree(root / "student", root / "pickled")
    (root / "pickled/model.safetensors").rename(root / "pickled/pytorch_model.bin")
    before = content(root)
    chosen = dict(zip(SENTENCE[::2], SENTENCE[1::2], strict=True)) | {arguments[0]: arguments[1]}
    assert said in refusal(run, capsys, *[part for pair in chosen.items() for part in pair])
    assert content(root) == before


def test_rows_in_other_scripts_get_words_that_rouge_can_read(
    root: Path, run: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": f"问{i}", "output": f"是第{i}号。"} for i in range(60)]
    (root / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(adopt.main, *SENTENCE)
    said = capsys.readouterr().out
    assert "Rouge-L   over Unicode words: the paper's cannot read 60 of 60 references" in said
    assert read_yaml(root / "profiles/mine.yaml")["recipe"]["data"]["rouge"] == "unicode"
    assert read_yaml(root / "evalsets/mine_test.yaml")["rouge"] == "unicode"


def test_nothing_is_overwritten(root: Path, run: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    run(adopt.main, *SENTENCE)
    before = content(root)
    capsys.readouterr()
    assert "profiles/mine.yaml, evalsets/mine_test.yaml" in refusal(run, capsys, *SENTENCE)
    assert content(root) == before


# --- a student cut from its teacher -----------------------------------------------------------------------


def test_a_cut_student_is_chosen_by_a_look(root: Path, run: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    deep = tiny_model("llama", vocabulary=292, width=24, layers=5, dtype=torch.float32, max_position_embeddings=256)
    with torch.no_grad():
        for name, parameter in deep.named_parameters():
            if ".layers.2." in name or ".layers.3." in name:
                parameter.zero_()  # adds nothing to what goes through
    deep.save_pretrained(root / "teacher")
    run(adopt.main, "--name", "mine", "--teacher", "teacher", "--student-layers", "3", "--data", "my.jsonl", "--only")
    told = capsys.readouterr()
    losses = dict(re.findall(r"without the layers ([\d, -]+): ([\d.]+) nats", told.err))
    assert list(losses) == ["1-2", "2-3", "1, 3"]
    whole = re.search(r"teacher: .*? ([\d.]+) nats a token on 32 rows", told.out)
    best = min(losses, key=lambda dropped: float(losses[dropped]))
    profile = read_yaml(root / "profiles/mine.yaml")["recipe"]["students"]["mine-student"]
    assert profile["model"] == {"source": {"path": "teacher"}, "drop_layers": [int(best[0]), int(best[-1])]} or (
        profile["model"]["drop_layers"] == [best]
    )
    # The layers that add nothing cost nothing; the look at the teacher takes other rows.
    assert whole is not None and float(losses["2-3"]) == pytest.approx(float(whole[1]), abs=0.2)
    assert f"the lowest loss on some rows untrained: {losses[best]} nats" in (root / "profiles/mine.yaml").read_text()
    run(check.main)
    run(prepare.main, "mine")
    run(base.main, "mine-student")
    assert json.loads((root / "runs/mine-student/base/config.json").read_text())["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--student-layers", "2"), "the model has 2 layers; give a number from 1 to 1"),
        (("--student-layers", "0"), "the model has 2 layers"),
        ((), "name a model as --student, or give --student-layers"),
    ],
)
def test_a_cut_that_is_none(run: Stage, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], said: str) -> None:
    assert said in refusal(run, capsys, "--name", "mine", "--teacher", "teacher", "--data", "my.jsonl", *given)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [(10**9, r"it needs 7\.5 GiB of memory and 4\.0 GiB are free"), (2 * 10**9, r"more than 1\.5B parameters")],
)
def test_models_that_cannot_be_read_here_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, parameters: int, said: str
) -> None:
    """Nothing is loaded, since there is nothing to load."""
    machine = Machine(gpus=(), memory=8 * 2**30, available=4 * 2**30, disk=2**40, cores=2)
    monkeypatch.setattr(adopt_look, "read_machine", lambda root: machine)
    models = Models(parameters, parameters, 64, chat=False, end_of_turn=None, student_layers=6)
    source, prompt = (
        Reference(path="nowhere"),
        PromptSettings(
            with_input="{instruction} {input}",
            without_input="{instruction}",
            max_prompt_tokens=8,
            max_response_tokens=8,
        ),
    )
    looked = adopt_look.look(source, source, models, prompt, [], 4)
    assert looked.cut is not None and (looked.cut.dropped, looked.cut.losses) == ((2, 3), ())
    assert re.search(f"not taken, because .*{said}; the stage `base` looks", looked.lines[0])
