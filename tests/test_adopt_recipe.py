"""What `commands.adopt` writes into a profile: limits by the rows' tokens, rates and epochs by what the models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tokenizers import normalizers
from transformers import GenerationConfig

from commands.adopt_models import Models, examine, instructed
from commands.adopt_prompt import PAPER, SHORT, TURN, Prompt, TokenLimit, choose_prompt
from commands.adopt_recipe import SIZES, Adoption, profile_text, size_of
from commands.methods import read_methods
from distill.data.rows import Row
from distill.data.sources import locate
from distill.project.errors import DataError, ModelError
from distill.project.references import Reference
from distill.project.settings import read_yaml
from tests.test_data_prompts import CHAT, tokenizer
from tests.tiny_models import tiny_model
from tests.tiny_pipeline import ROOT

# --- limits by the rows, paces by the models ------------------------------------------------------------------------


def rows_of(*lengths: tuple[int, int]) -> list[Row]:
    """Rows with prompts and answers of so many letters."""
    return [Row(i, "x" * asked, "", ("y" * answered,), "") for i, (asked, answered) in enumerate(lengths)]


BARE = Models(2, 1, 256, chat=False, end_of_turn=None)


def test_limits_fit_the_rows() -> None:
    """Tokens are bytes: the short template adds a newline, the tokenizer BOS; an answer has its end."""
    reader = tokenizer(None)
    prompt = choose_prompt(rows_of(*[(30, 20)] * 99, (60, 400)), reader, BARE)
    assert prompt.templates == SHORT, "the paper's would take more than a quarter of what the models read"
    assert prompt.prompts == TokenLimit(32, 62, 32, 1), "one prompt of 62 is left out"
    assert prompt.responses == TokenLimit(21, 401, 32, 0), "its answer is not cut as well"
    prompt = choose_prompt(rows_of(*[(30, 20)] * 90, *[(44, 25)] * 10), reader, BARE)
    assert (prompt.prompts.limit, prompt.prompts.over) == (48, 0), "not far longer than the rest: all stay"
    prompt = choose_prompt(rows_of(*[(100, 900)] * 50), reader, BARE)
    assert (prompt.prompts.limit, prompt.responses.limit, prompt.responses.over) == (112, 144, 50)
    with pytest.raises(DataError, match=r"9 of 10 rows have prompts over 128 tokens .* the models read 256 tokens"):
        choose_prompt(rows_of(*[(400, 900)] * 9, (10, 10)), reader, BARE)
    reader.backend_tokenizer.normalizer = normalizers.Replace("y", "x")
    with pytest.raises(ModelError, match="cannot hold 10 of the 10 rows of --data"):
        choose_prompt(rows_of(*[(30, 20)] * 10), reader, BARE)


def test_a_model_with_fewer_rows_than_tokens_is_refused(tmp_path: Path) -> None:
    tiny_model("llama", vocabulary=30).save_pretrained(tmp_path)
    tokenizer(None).save_pretrained(tmp_path)
    model = Reference(path=str(tmp_path))
    with pytest.raises(ModelError, match=r"has 30 rows and the tokenizer ids up to .*; use the tokenizer that"):
        examine(model, model)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").touch()
    with pytest.raises(ModelError, match="holds an adapter and no model; name both"):
        examine(model, Reference(path=str(tmp_path / "adapter")))


def test_a_chat_and_the_papers_template_count_as_they_are_written() -> None:
    chat = choose_prompt(rows_of((10, 5)), tokenizer(CHAT), Models(2, 1, 256, chat=True, end_of_turn="<end>"))
    assert (chat.templates, chat.prompts.longest, chat.responses.longest) == (TURN, 30, 6)
    paper = choose_prompt(rows_of((10, 5)), tokenizer(None), Models(2, 1, 4096, chat=False, end_of_turn=None))
    assert (paper.templates, paper.prompts.longest) == (PAPER, len(PAPER[1].format(instruction="x" * 10)) + 1)


def test_a_model_that_stops_at_the_end_of_a_turn_follows_instructions(tmp_path: Path) -> None:
    source, reader = Reference(path=str(tmp_path)), tokenizer(CHAT)
    assert not instructed(source, tokenizer(None), None), "no template"
    assert instructed(source, reader, None), "turns end with the end of sequence"
    assert not instructed(source, reader, "<end>"), "nothing says where it stops"
    for stops, wanted in ((0, False), ([0, 3], True)):
        GenerationConfig(eos_token_id=stops).save_pretrained(tmp_path)
        assert instructed(source, reader, "<end>") is wanted


def test_a_model_that_follows_instructions_learns_less() -> None:
    models = Models(1_557_611_200, 124_439_808, 1024, chat=True, end_of_turn=None, student_instructed=True)
    recipe = YAML(typ="safe").load(profile_text(adoption(models=models)))["recipe"]
    student = recipe["students"]["mine-student"]
    assert student["sft"] == {"learning_rate": 1e-4, "batch_size": 32, "epochs": 3}
    assert recipe["teacher"]["sft"]["epochs"] == 10, "a base model as in the paper"
    assert "not swept" in recipe["note"]
    for size in SIZES:
        assert float(size.gentle_rate) < float(size.rate)


def test_a_home_folder_in_a_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Reference.model_validate("~/models/x").name == str(tmp_path / "models/x")
    assert locate("~/rows.jsonl", Path("data")) == tmp_path / "rows.jsonl"


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
        "prompt": Prompt(PAPER, False, TokenLimit(180, 240, 240, 0), TokenLimit(90, 300, 96, 7), 1000),
        "train": "train.jsonl",
        "test": "test.jsonl",
        "valid": None,
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
        if line.strip().startswith(("with_input", "without_input")):
            assert line in paper, line
    assert "chat_template" not in text
    assert all(len(line) <= 120 for line in text.splitlines() if "_input" not in line), "longer than a screen"
