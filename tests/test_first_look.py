"""Students cut from another model, and the look at a model before training rests on it."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from distill.conversion.cut import cut
from distill.evaluation.guessing import FirstLook, guessing_loss
from distill.models.loading import initialise_model, load_model
from distill.models.settings import ModelSettings, spans
from distill.preflight.models import layer_fault, origin_of
from distill.project.errors import ModelError
from distill.text.tokenizers import load_tokenizer
from stages import base
from tests.tiny_models import tiny_model
from tests.tiny_pipeline import MINI, SMALL, edit, in_folder
from tests.training_stages import sft

pytest_plugins = ["tests.stage_fixtures"]

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])


# --- cutting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("gpt2", {}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),  # a layer that depends on its number
        ("opt", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 2}),  # a list by layer
    ],
)
def test_a_cut_model_is_what_is_read_back(architecture: str, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = tiny_model(architecture, layers=5, dtype=torch.float32, **settings)
    state = torch.get_rng_state()
    short = cut(whole, (0, 2, 4))
    assert torch.equal(torch.get_rng_state(), state), "later draws are the same with a cut and without"
    short.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 3
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, short(IDS).logits, rtol=0, atol=0)
    kept = dict(short.named_parameters())
    [(one, two)] = [
        (a, b) for a, b in zip(kept, dict(whole.named_parameters()), strict=False) if ".1." in a and a == b
    ][:1]
    assert torch.equal(kept[one], dict(whole.named_parameters())[two.replace(".1.", ".2.")])


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "qwen2"])
def test_a_cut_model_skips_the_layers_that_it_lost(architecture: str) -> None:
    whole = tiny_model(architecture, layers=4, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            # A layer that adds nothing to the residual stream is one that can be left out.
            if ".1." in name or ".3." in name:
                parameter.zero_()
        torch.testing.assert_close(cut(whole, (0, 2))(IDS).logits, whole(IDS).logits)


def test_all_layers_are_the_model_itself() -> None:
    whole = tiny_model("llama", layers=3)
    with torch.no_grad():
        assert torch.equal(cut(whole, (0, 1, 2))(IDS).logits, whole(IDS).logits)


def test_layers_that_are_not_there() -> None:
    with pytest.raises(ModelError, match=r"has 3 layers, 0 to 2, and no layer 7; correct"):
        cut(tiny_model("gpt2", layers=3), (0, 7))
    with pytest.raises(ModelError, match=r"none of the model's 3 layers would be left; keep one"):
        cut(tiny_model("gpt2", layers=3), ())


@pytest.mark.parametrize(
    ("given", "numbers"),
    [([0, 1, 5], (0, 1, 5)), (["0-2", 5], (0, 1, 2, 5)), ("0-2, 5", (0, 1, 2, 5)), (["3"], (3,))],
)
def test_layers_as_they_are_written(given: object, numbers: tuple[int, ...]) -> None:
    read = ModelSettings.model_validate({"source": "folder", "keep_layers": given})
    assert read.kept_layers(9) == numbers
    dropped = ModelSettings.model_validate({"source": "folder", "drop_layers": given})
    assert set(dropped.kept_layers(9)) == set(range(9)) - set(numbers)
    assert ModelSettings.model_validate({"source": "folder", "keep_layers": spans(numbers)}).keep_layers == numbers


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_layers": [3, 1]}, "in the order of the model"),
        ({"keep_layers": [1, "0-2"]}, "each layer once"),
        ({"keep_layers": ["5-2"]}, "write `2-5`"),
        ({"keep_layers": [True]}, "give numbers of layers"),
        ({"keep_layers": [-1]}, "give numbers of layers"),
        ({"keep_layers": []}, "at least 1 item"),
        ({"keep_layers": [1], "drop_layers": [2]}, "give one of them"),
        ({"source": None, "init": {"model_type": "gpt2"}, "drop_layers": [2]}, "cut a `source`"),
        ({"pretrain": {"steps": 1, "learning_rate": 1e-3}}, "fresh and cut models"),
    ],
)
def test_layers_that_make_no_sense(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelSettings.model_validate({"source": "folder", **given})


# --- guessing -------------------------------------------------------------------------------------------


def test_guessing_is_the_slow_sum() -> None:
    draw = random.Random(0)
    responses = [[draw.randrange(20) for _ in range(draw.randrange(1, 9))] for _ in range(12)]
    beside, vocabulary, loss = [[1, 1, 2], [30]], 40, 0.0
    for place, response in enumerate(responses):
        others = [token for n, other in enumerate(responses) if n != place for token in other] + [1, 1, 2, 30]
        kinds = len(set(others))
        for token in response:
            loss -= math.log((others.count(token) + kinds / vocabulary) / (len(others) + kinds))
    assert guessing_loss(responses, vocabulary, beside) == pytest.approx(loss / sum(map(len, responses)), abs=1e-12)


def test_one_response_leaves_the_uniform_guess() -> None:
    assert guessing_loss([[1, 2, 3]], 50) == pytest.approx(math.log(50))


@pytest.mark.parametrize(
    ("loss", "teacher", "said"),
    [
        (2.8, None, None),
        (2.8, 2.5, None),
        (2.4, 2.5, "better than its teacher"),
        (7.5, 2.5, "no better than guessing from the frequencies"),
        (17.2, 2.5, "worse than guessing at random"),
        (math.nan, None, "worse than guessing at random"),
    ],
)
def test_what_a_look_says(loss: float, teacher: float | None, said: str | None) -> None:
    doubt = FirstLook(loss, guessing=7.2, uniform=10.8, rows=32).doubt(teacher)
    assert (doubt is None) == (said is None)
    assert said is None or (doubt is not None and doubt.startswith(said) and "on 32 rows" in doubt)


# --- the stage ------------------------------------------------------------------------------------------


def taken_from(project: Path, **settings: object) -> None:
    edit(project / MINI, f"{SMALL}.model", {"source": {"path": "own"}, **settings})


@pytest.fixture
def own(project: Path) -> Path:
    """A user's model of three layers, with the family's tokenizer."""
    folder = Path(shutil.copytree(project / "data/mini/tokenizer", project / "own"))
    init = {"model_type": "gpt2", "n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 128}
    initialise_model(init, load_tokenizer(folder), 0).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("own")
def test_a_student_is_cut_and_healed(project: Path) -> None:
    run = in_folder(project)
    taken_from(project, drop_layers=[1])
    run(base.main, "small")
    found = load_model(project / "runs/small/base")
    assert found.config.n_layer == 2
    raw = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    pretrain = {"steps": 2, "batch_size": 4, "sequence_length": 16, "learning_rate": 1e-3}
    taken_from(project, keep_layers="0, 2", pretrain=pretrain)
    run(base.main, "small")
    healed = load_model(project / "runs/small/base").state_dict()
    assert healed.keys() == raw.keys()
    assert not torch.equal(healed["transformer.h.0.mlp.c_fc.weight"], raw["transformer.h.0.mlp.c_fc.weight"])


def test_a_conversion_that_babbles_is_told(project: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = in_folder(project)
    weights = load_file(own / "model.safetensors")
    # As a converter that mixes up two matrices leaves them: finite, well-shaped, and nonsense.
    weights["transformer.wte.weight"] = 20 * weights["transformer.wte.weight"].flip(0)
    save_file(weights, own / "model.safetensors", {"format": "pt"})
    taken_from(project)
    run(base.main, "small")
    said = capsys.readouterr().out
    assert "warning: base@small: worse than guessing at random: " in said
    look = json.loads((project / "runs/small/base.run.json").read_text())["first_look"]
    assert look["loss"] > look["uniform"] > look["guessing"]
    # And what is trained from it, if that does not help.
    shutil.rmtree(project / "runs/small/init")
    edit(project / MINI, f"{SMALL}.init.learning_rate", 1e-9)
    run(sft.main, "small", "init")
    assert "warning: init@small after its training: worse than guessing at random" in capsys.readouterr().out


@pytest.mark.usefixtures("own")
def test_what_was_seen_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken_from(project)
    in_folder(project)(base.main, "small")
    # Random weights guess, and the look at the teacher's start is no better.
    assert "base@small: no better than guessing from the frequencies" in capsys.readouterr().out


# --- before anything runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "qwen2", "phi"])
def test_the_shape_of_a_cut_is_known_before_it_is_made(architecture: str, tmp_path: Path) -> None:
    extra = {"num_key_value_heads": 4} if architecture == "phi" else {}
    whole = tiny_model(architecture, layers=5, dtype=torch.float32, **extra)
    whole.save_pretrained(tmp_path)
    settings = ModelSettings.model_validate({"source": {"path": str(tmp_path)}, "drop_layers": ["1-2"]})
    shape = origin_of(settings, 0, {}).shape
    assert shape is not None
    assert shape.layers == 3
    parameters = sum(parameter.numel() for parameter in cut(whole, (0, 3, 4)).parameters())
    # Of an architecture without a formula the files are counted, and a layer is a share of them.
    assert shape.parameters == (pytest.approx(parameters, rel=0.01) if architecture == "phi" else parameters)
    assert layer_fault(settings, {}) is None
    wrong = ModelSettings.model_validate({"source": {"path": str(tmp_path)}, "keep_layers": [0, 5]})
    assert layer_fault(wrong, {}) == f"{tmp_path} has the layers 0 to 4 and no layer 5; correct the number"
    nothing = ModelSettings.model_validate({"source": {"path": str(tmp_path)}, "drop_layers": ["0-4"]})
    assert "none of the 5 layers would be left" in str(layer_fault(nothing, {}))
