"""Preparation: what it writes, what it leaves out, what it finds, and that a failure leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from distill.data.prepare import encode_split, hold_out, prepare
from distill.data.rows import Fields, Row, Split, read_split
from distill.data.settings import DataSettings
from distill.project.errors import DataError
from distill.project.files import read_json, read_jsonl
from distill.project.randomness import permutation
from distill.project.settings import read_yaml
from distill.text.settings import PromptSettings, TokenizerSettings
from distill.text.tokenizers import build_tokenizer

ROOT = Path(__file__).resolve().parents[1]

PROMPT = PromptSettings(
    with_input="Do: {instruction}\nWith: {input}\nAnswer: ",
    without_input="Do: {instruction}\nAnswer: ",
    max_prompt_tokens=60,
    max_response_tokens=20,
)
BYTES = TokenizerSettings.model_validate({"train": {"vocab_size": 258}})
"""With hardly a merge allowed, tokens are bytes, so lengths are easy to foresee."""

Prepare = Callable[..., dict[str, Any]]


def row(instruction: str, output: Any, **more: str) -> dict[str, Any]:
    return {"instruction": instruction, "output": output, **more}


TRAIN = [
    row("Count to three.", "1 2 3"),
    row("Say it.", ["first", "second"], input="naïve 🙂", category="echo"),
    row("Count to  three.", "1 2 3 "),
    row("Write. " * 10, "The prompt is too long."),
    row("Nothing.", ""),
    row("Go on.", "and on" * 5),
]
VALID = [row("Count to three.", "1 2 3"), row("Count to three.", "one two three"), row("New.", "yes")]
TEST = [row("Say it.", "first", input="naïve 🙂"), row("Other.", "no")]


@pytest.fixture
def prepare_here(tmp_path: Path) -> Prepare:
    """Prepares tmp_path/data from the rows given (TRAIN and VALID otherwise)."""

    def run(train: list[dict[str, Any]] = TRAIN, prompt: PromptSettings = PROMPT, **more: Any) -> dict[str, Any]:
        for name, rows in {"train": train, "valid": VALID, "test": TEST}.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = {"train": {"path": "train.jsonl"}, "valid": {"path": "valid.jsonl"}} | more
        return prepare(DataSettings.model_validate(content), prompt, BYTES, tmp_path, tmp_path / "data")

    return run


def test_parquet_holds_the_rows_with_their_token_ids(prepare_here: Prepare, tmp_path: Path) -> None:
    prepare_here()
    train = Dataset.from_parquet(str(tmp_path / "data/train.parquet"), cache_dir=str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "data/tokenizer")
    assert train["instruction"][:] == [TRAIN[i]["instruction"] for i in (0, 1, 2, 5)]
    second = train[1]
    assert (second["input"], second["output"], second["category"]) == ("naïve 🙂", "first", "echo")
    assert tokenizer.decode(second["prompt_ids"]) == "Do: Say it.\nWith: naïve 🙂\nAnswer: "
    assert tokenizer.decode(second["response_ids"]) == "first<|endoftext|>"
    assert len(train[3]["response_ids"]) == 20
    assert tokenizer.eos_token_id not in train[3]["response_ids"]


def test_the_audit_accounts_for_every_row(prepare_here: Prepare, tmp_path: Path) -> None:
    report = prepare_here()
    train = report["splits"]["train"]
    assert (train["read"], train["kept"], train["responses_cut"]) == (6, 4, 1)
    assert train["left_out"]["empty_response"] == {"count": 1, "rows": [5]}
    assert train["left_out"]["prompt_over_60_tokens"] == {"count": 1, "rows": [4]}
    assert train["read"] == train["kept"] + sum(part["count"] for part in train["left_out"].values())
    assert train["response_tokens"]["max"] == 20
    assert read_json(tmp_path / "data/report.json") == report


def test_the_audit_counts_what_the_limit_of_whole_rows_cuts(prepare_here: Prepare, tmp_path: Path) -> None:
    """Of TRAIN the last row alone has over 20 response tokens, 30 and the end, behind 19 to 22 of prompt."""
    before = prepare_here()["splits"]["train"]
    prompt = len(Dataset.from_parquet(str(tmp_path / "data/train.parquet"), cache_dir=str(tmp_path))[3]["prompt_ids"])
    roomy = PROMPT.model_copy(update={"max_sequence_tokens": 200})
    whole = prepare_here(prompt=roomy)["splits"]["train"]
    assert (before["responses_cut"], whole["responses_cut"]) == (1, 0)
    assert whole["left_out"] == before["left_out"] and whole["prompt_tokens"] == before["prompt_tokens"]
    longest = whole["response_tokens"]["max"]
    assert longest > before["response_tokens"]["max"] == 20
    tight = PROMPT.model_copy(update={"max_sequence_tokens": max(61, prompt + longest - 1)})
    assert prepare_here(prompt=tight)["splits"]["train"]["responses_cut"] == (prompt + longest > 61)


def test_token_statistics_are_those_of_the_kept_rows(prepare_here: Prepare) -> None:
    valid = prepare_here()["splits"]["valid"]
    # Two of the 258 tokens are merges at most; "yes" and the end token are the shortest response.
    assert valid["response_tokens"] == {"mean": pytest.approx(8, abs=1.5), "p95": 14, "max": 14}


def test_duplicates_are_found_within_and_across_splits_and_stay(prepare_here: Prepare) -> None:
    duplicates = prepare_here(test={"path": "test.jsonl"})["duplicates"]
    assert duplicates["within"]["train"] == {"rows": 1, "prompts": 1}
    assert duplicates["within"]["valid"] == {"rows": 0, "prompts": 1}
    assert duplicates["across"]["train/valid"]["rows"] == {"count": 1, "pairs": [[1, 1]]}
    assert duplicates["across"]["train/valid"]["prompts"]["count"] == 2
    assert duplicates["across"]["train/test"]["rows"] == {"count": 1, "pairs": [[2, 1]]}
    assert duplicates["across"]["valid/test"]["rows"]["count"] == 0


def test_without_duplicates_none_are_found(prepare_here: Prepare) -> None:
    duplicates = prepare_here([row("Unlike the rest.", "a")])["duplicates"]
    assert duplicates["within"]["train"]["rows"] == 0
    assert duplicates["across"]["train/valid"]["rows"]["count"] == 0


def test_skipped_rows_are_in_the_report_with_their_lines(prepare_here: Prepare) -> None:
    report = prepare_here([*TRAIN, row("Bad.", 3)], on_bad_row="skip")
    assert report["splits"]["train"]["left_out"]["malformed"] == {
        "count": 1,
        "rows": [{"number": 7, "reason": "`output` is of type int, not text"}],
    }


def test_validation_rows_are_drawn_from_all_over_the_training_rows() -> None:
    rows = [Row(i, f"{i}", "", ("x",), "") for i in range(1, 1001)]
    split = Split("train.jsonl", 1000, rows, [], {})
    train, valid = hold_out(split, 100)
    numbers = [row.number for row in valid.rows]
    assert sorted([*numbers, *(row.number for row in train.rows)]) == list(range(1, 1001))
    assert numbers == sorted(numbers) == train.dropped["moved_to_validation"]
    assert 20 < sum(number <= 500 for number in numbers) < 80
    assert hold_out(split, 100)[1] == valid
    with pytest.raises(DataError, match="lower `valid_rows`"):
        hold_out(split, 1000)


def test_rows_of_one_prompt_stay_on_one_side() -> None:
    """White space makes no other prompt, another input does; without duplicates the draw is that of single rows."""
    rows = [Row(i, f"Say  {i // 3}. " if i % 2 else f"Say {i // 3}.", "", (f"{i}",), "") for i in range(300)]
    train, valid = hold_out(Split("rows", 300, rows, [], {}), 31)
    assert len(valid.rows) == 30, "31 would part the rows of a prompt"
    assert not {row.number // 3 for row in train.rows} & {row.number // 3 for row in valid.rows}
    assert len(hold_out(Split("rows", 6, rows[:6], [], {}), 1)[1].rows) == 3, "a prompt has three rows at least"
    single = [row._replace(input=f"{row.number}") for row in rows]
    drawn = permutation(300, 0, "validation rows")[:31]
    assert [row.number for row in hold_out(Split("rows", 300, single, [], {}), 31)[1].rows] == sorted(drawn)
    with pytest.raises(DataError, match="3 usable rows of 1 different prompts, too few to take 1 of them"):
        hold_out(Split("rows", 3, rows[:3], [], {}), 1)


def test_the_same_input_gives_the_same_bytes(prepare_here: Prepare, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some plain text.")

    def run() -> dict[str, bytes]:
        prepare_here(corpus={"path": "text.txt"})
        files = sorted(file for file in (tmp_path / "data").rglob("*") if file.is_file())
        return {file.name: file.read_bytes() for file in files}

    first = run()
    assert {
        "train.parquet",
        "valid.parquet",
        "corpus.parquet",
        "report.json",
        "tokenizer.json",
    } <= first.keys()
    assert run() == first


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"train": [row("Bad.", 3)]}, "malformed row"),
        ({"train": [row("x" * 100, "Every prompt is too long.")]}, "1 prompt over 60 tokens"),
        ({"train": [row("i", " ")]}, "1 empty response"),
        ({"valid": {"path": "none.jsonl"}}, "does not exist"),
        ({"fields": {"output": "answer"}}, "its fields are instruction, output"),
        ({"corpus": {"path": "none.txt"}}, "does not exist"),
        ({"test": {"path": "none.jsonl"}}, "does not exist"),
    ],
)
def test_a_failure_is_one_message_and_leaves_nothing(
    prepare_here: Prepare, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        prepare_here(**more)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_failure_while_writing_leaves_nothing(
    prepare_here: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.data.prepare.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_here()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_toy_world_brings_rows_documents_and_evaluation_sets(tmp_path: Path) -> None:
    data = DataSettings.model_validate({"world": {"train": 40, "valid": 10, "test": 5, "documents": 20}})
    prompt = PROMPT.model_copy(update={"max_prompt_tokens": 1000, "max_response_tokens": 1000})
    report = prepare(data, prompt, BYTES, tmp_path / "unused", tmp_path / "data")
    kept = {name: split["kept"] for name, split in report["splits"].items()}
    assert kept == {"train": 40, "valid": 10, "toy_id": 5, "toy_para": 5, "toy_shift": 5}
    assert report["corpus"]["kept"] == 20
    for name in ("toy_id", "toy_para", "toy_shift"):
        rows = read_jsonl(tmp_path / f"data/tests/{name}.jsonl")
        assert [sorted(row) for row in rows] == [["category", "input", "instruction", "output"]] * 5
        assert report["duplicates"]["across"][f"train/{name}"]["prompts"]["count"] == 0
    assert not (tmp_path / "unused").exists()


SHORT_PROMPT = {
    "with_input": "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "without_input": "### Instruction:\n{instruction}\n\n### Response:\n",
    "max_prompt_tokens": 256,
    "max_response_tokens": 256,
}


def test_the_known_duplicates_of_the_real_dolly_split_are_found(shared_data: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "train": {"path": "train.jsonl.xz"},
        "valid": {"path": "dev.jsonl"},
        "test": {"path": "valid.jsonl"},
    }
    gpt2 = {"source": {"path": str(shared_data / "models/gpt2-tokenizer")}}
    report = prepare(
        DataSettings.model_validate(content),
        PromptSettings.model_validate(SHORT_PROMPT),
        TokenizerSettings.model_validate(gpt2),
        shared_data / "minillm/dolly",
        tmp_path / "dolly",
    )
    assert [report["splits"][name]["kept"] for name in ("train", "valid", "test")] == [11435, 1000, 500]
    across = report["duplicates"]["across"]
    counts = {pair: shared["rows"]["count"] for pair, shared in across.items()}
    assert counts == {"train/valid": 1, "train/test": 2, "valid/test": 0}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_paper_s_profile_gives_the_authors_token_ids(shared_data: Path, split: str) -> None:
    """Their recipe written out: prompt and response tokenised together, the end appended, cut at 512 in all.

    Rows whose prompt is over 256 tokens are gone from these files, so none may be dropped here.
    """
    recipe = read_yaml(ROOT / "profiles/gpt2.yaml")["recipe"]
    prompt = PromptSettings.model_validate(recipe["prompt"])
    gpt2 = {"source": {"path": str(shared_data / "models/gpt2-tokenizer")}}
    tokenizer = build_tokenizer(TokenizerSettings.model_validate(gpt2), [])
    source = DataSettings.model_validate({"train": recipe["data"][split], "valid_rows": 1}).train
    assert source is not None
    rows = read_split(source, Fields(), "error", shared_data)
    encoded = encode_split(rows, prompt, tokenizer)
    assert len(encoded.pairs) == rows.read == {"train": 11_435, "valid": 1_000}[split]
    texts = [paper_text(row) for row in encoded.split.rows]
    together = [text + row.references[0] for text, row in zip(texts, encoded.split.rows, strict=True)]
    authors = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(together)["input_ids"]]
    assert [prompt_ids for prompt_ids, _ in encoded.pairs] == tokenizer(texts)["input_ids"]
    assert [prompt_ids + response_ids for prompt_ids, response_ids in encoded.pairs] == [ids[:512] for ids in authors]
    cut = sum(response_ids[-1] != tokenizer.eos_token_id for _, response_ids in encoded.pairs)
    assert cut == sum(len(ids) > 512 for ids in authors) == {"train": 198, "valid": 18}[split]


def paper_text(row: Row) -> str:
    """The prompt of the paper's Fig. 9."""
    context = ", paired with an input that provides further context" if row.input else ""
    given = f"### Input:\n{row.input}\n\n" if row.input else ""
    return (
        f"Below is an instruction that describes a task{context}. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{row.instruction}\n\n{given}### Response:\n"
    )
