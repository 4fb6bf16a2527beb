"""Faults that a stage meets in models, tokenizers and numbers: one message with the fix, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.text.tokenizers import learn_bpe
from stages import base, divergence, pseudo, respond
from tests.tiny_pipeline import DELETED, MINI, SMALL, edit, in_folder
from tests.training_stages import kd, minillm, sft

pytest_plugins = ["tests.stage_fixtures"]


@pytest.fixture
def refused(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a stage that must refuse; its message. Nothing but scratch may differ afterwards."""

    def outputs() -> dict[Path, bytes]:
        files = (p for p in project.rglob("*") if p.is_file() and ".resume" not in p.parts)
        return {path: path.read_bytes() for path in files}

    def run(main: Callable[[], None], *arguments: str) -> str:
        before = outputs()
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            in_folder(project)(main, *arguments)
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert "Traceback" not in said
        assert outputs() == before, "a refused stage wrote something"
        return said[said.index("error: ") :]

    return run


# --- names and settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (
            sft.main,
            ("nobody", "sft"),
            "`nobody` is neither a student nor a family of params.yaml; known are: small, mini",
        ),
        (sft.main, ("small", "sfd"), "profiles/mini.yaml: no `sfd` in recipe.students.small; did you mean `sft`?"),
        (minillm.main, ("small", "ppo"), "no `ppo` in recipe.students.small; the names there are: model, init, sft"),
        (base.main, ("giant",), "`giant` is neither a student nor a family"),
        (pseudo.main, ("giant",), "`giant` is neither a student nor a family"),
        (divergence.main, ("nobody", "sft"), "`nobody` is neither a student nor a family"),
        (respond.main, ("small", "sft", "trivia"), "`trivia` is no evaluation set of params.yaml; use one of: toy_id"),
        (respond.main, ("small", "dpo", "toy_id"), "`dpo` is no method of params.yaml; use one of: sft, minillm"),
    ],
)
def test_unknown_names(refused: Callable[..., str], main: Callable[[], None], arguments: tuple[str], said: str) -> None:
    assert said in refused(main, *arguments)


@pytest.mark.parametrize(
    ("main", "arguments", "place"),
    [
        (sft.main, ("small", "sft"), f"{SMALL}.sft"),
        (sft.main, ("mini", "teacher"), "recipe.teacher.sft"),
        (kd.main, ("small", "kd"), f"{SMALL}.kd"),
        (minillm.main, ("small", "minillm"), f"{SMALL}.minillm"),
        (base.main, ("small",), f"{SMALL}.model"),
        (pseudo.main, ("mini",), "recipe.pseudo"),
        (respond.main, ("small", "sft", "toy_id"), "hardware"),
    ],
)
def test_a_stage_reports_all_faults_of_its_own_section(
    project: Path, refused: Callable[..., str], main: Callable[[], None], arguments: tuple[str], place: str
) -> None:
    edit(project / MINI, f"{place}.nonsense", 1)
    edit(project / MINI, f"{place}.more", 2)
    message = refused(main, *arguments)
    assert f"profiles/mini.yaml: {place}.nonsense is not a setting" in message
    assert f"profiles/mini.yaml: {place}.more is not a setting" in message


def test_a_key_in_two_places(project: Path, refused: Callable[..., str]) -> None:
    edit(project / MINI, "seed", 1)
    assert "seed stand(s) in params.yaml too; a setting lives in one place: keep one" in refused(base.main, "small")


# --- what comes before is missing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "main", "arguments", "said"),
    [
        ("data/mini", sft.main, ("small", "sft"), "data/mini/tokenizer does not exist; run `dvc repro`"),
        ("data/mini/train.parquet", sft.main, ("small", "sft"), "train.parquet does not exist; run `dvc repro`"),
        ("data/mini/corpus.parquet", base.main, ("mini",), "give the profile's `recipe.data.corpus`, or switch off"),
        (
            "runs/small/base",
            sft.main,
            ("small", "sft"),
            "runs/small/base holds no model (no config.json); run `dvc repro`",
        ),
        ("runs/mini/teacher", kd.main, ("small", "kd"), "runs/mini/teacher holds no model (no config.json); run"),
        ("runs/small/init", minillm.main, ("small", "minillm"), "runs/small/init holds no model (no config.json); run"),
        ("params.yaml", sft.main, ("small", "sft"), "params.yaml does not exist"),
        (str(MINI), sft.main, ("small", "sft"), "family `mini` has no profile profiles/mini.yaml; write it or use one"),
    ],
)
def test_a_missing_input_is_named(
    project: Path, refused: Callable[..., str], gone: str, main: Callable[[], None], arguments: tuple[str], said: str
) -> None:
    if (project / gone).is_dir():
        shutil.rmtree(project / gone)
    else:
        (project / gone).unlink()
    assert said in refused(main, *arguments)


# --- models from elsewhere ----------------------------------------------------------------------------


def from_folder(project: Path, folder: Path) -> None:
    """Let the student start from a model in `folder`."""
    edit(project / MINI, f"{SMALL}.model", {"source": {"path": str(folder)}})


@pytest.fixture
def own(project: Path, tmp_path: Path) -> Path:
    """A user's model folder: the student's base, with its tokenizer."""
    folder = Path(shutil.copytree(project / "runs/small/base", tmp_path / "own"))
    from_folder(project, folder)
    return folder


def test_a_sound_folder_is_taken(project: Path, own: Path) -> None:
    in_folder(project)(base.main, "small")
    assert json.loads((project / "runs/small/base/reference.json").read_text())["path"] == str(own)


def only_pickle(own: Path) -> None:
    torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()


def cut_short(own: Path) -> None:
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def one_layer_too_few(own: Path) -> None:
    edit_json(own / "config.json", n_layer=2)


def other_width(own: Path) -> None:
    edit_json(own / "config.json", n_embd=32)


def unknown_architecture(own: Path) -> None:
    edit_json(own / "config.json", model_type="gpt9")


def other_tokenizer(own: Path) -> None:
    learn_bpe(["Quite another text, of other words and syllables."] * 9, 300).save_pretrained(own)


def without_tokenizer(own: Path) -> None:
    for file in own.glob("tokenizer*"):
        file.unlink()


def without_config(own: Path) -> None:
    (own / "config.json").unlink()


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            without_config,
            "holds no model (no config.json); run `dvc repro` for a stage's own model, correct the path, or write a",
        ),
        (
            only_pickle,
            "holds its weights as pickles (pytorch_model.bin), which can run code when they are read; convert them",
        ),
        (cut_short, "that it is stored as safetensors (docs/models.md says how to convert), and that the hub is"),
        (one_layer_too_few, "has no fitting weights for 12 tensors that its config.json asks for"),
        (other_width, "fetch it again, or correct its config.json"),
        (unknown_architecture, "model type `gpt9`"),
        (without_tokenizer, "holds no tokenizer; put its tokenizer.json there, or correct the name"),
        (other_tokenizer, "need one tokenizer; use a student of the teacher's family, or train this one by SeqKD in a"),
        (shutil.rmtree, "does not exist; run `dvc repro` for a family's own, or correct the path"),
    ],
)
def test_a_folder_that_cannot_be_used(
    own: Path, refused: Callable[..., str], break_it: Callable[[Path], None], said: str
) -> None:
    break_it(own)
    message = refused(base.main, "small")
    assert said in message
    assert len(message) < 700


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ({"model_type": "gpt9"}, "`init.model_type: gpt9` is unknown to transformers; use e.g. gpt2"),
        ({"model_type": "gpt2", "n_layers": 2}, "`init` has settings gpt2 does not know: n_layers; remove them"),
        ({"model_type": "gpt2", "n_embd": 16, "n_head": 3}, "`init` is no model that gpt2 can be (`embed_dim` must be"),
        ({"model_type": "gpt2", "n_embd": "wide"}, "expected int, got str (value: 'wide')); correct it"),
        ({"model_type": "gpt2", "n_layer": 0}, "it would have no layer"),
        ({"model_type": "llama", "hidden_size": 16, "num_attention_heads": 3}, "not a multiple of the number of"),
        ({"model_type": "gpt2", "activation_function": "none"}, "`init` is no model that gpt2 can be"),
        ({"model_type": "t5"}, "`init` is no model that t5 can be"),
        ({"n_layer": 2}, "`init` needs a `model_type`, e.g. gpt2, opt, llama or qwen2"),
    ],
)
def test_an_architecture_that_cannot_be(
    project: Path, refused: Callable[..., str], init: dict[str, Any], said: str
) -> None:
    edit(project / MINI, f"{SMALL}.model.init", init)
    assert said in refused(base.main, "small")


def test_a_source_and_an_architecture_at_once(own: Path, project: Path, refused: Callable[..., str]) -> None:
    edit(project / MINI, f"{SMALL}.model.init", {"model_type": "gpt2"})
    assert "give exactly one of `source` and `init`; change it to fit" in refused(base.main, "small")
    edit(project / MINI, f"{SMALL}.model.init", DELETED)
    edit(project / MINI, f"{SMALL}.model.source", {"hub": "openai-community/gpt2"})
    assert "a hub id needs a pinned `revision` (a commit hash)" in refused(base.main, "small")


# --- numbers ------------------------------------------------------------------------------------------


def overflow(folder: Path) -> None:
    """Weights so large that the first loss is no number, as after a learning rate far too high."""
    weights = load_file(folder / "model.safetensors")
    save_file({n: w * 1e30 for n, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def test_a_loss_that_is_no_number(project: Path, refused: Callable[..., str]) -> None:
    overflow(project / "runs/small/base")
    message = refused(sft.main, "small", "sft")
    assert "the loss is nan; lower `learning_rate` (now 0.003) or raise `warmup_steps`" in message


def test_minillm_from_weights_that_are_no_numbers(project: Path, refused: Callable[..., str]) -> None:
    overflow(project / "runs/small/init")
    message = refused(minillm.main, "small", "minillm")
    assert "are not finite; look for nan in its weights" in message


def test_a_batch_that_the_machine_cannot_fill(project: Path, refused: Callable[..., str]) -> None:
    edit(project / MINI, "hardware.micro_batch", 5)
    assert "batch_size: 32 is not a multiple of micro_batch 5" in refused(sft.main, "small", "sft")
