"""No answer is scored against the wrong reference, and every fault of the rows is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.evaluation import answer_sheet
from distill.project.errors import DataError
from distill.scoring import scores


def write(path: Path, *rows: Any) -> Path:
    """Rows as JSONL; a string is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def refused(tmp_path: Path, given: list[Any], references: list[Any], allow_empty: bool = False) -> str:
    """The message with which these rows are refused."""
    with pytest.raises(DataError) as caught:
        answer_sheet.read(write(tmp_path / "a.jsonl", *given), write(tmp_path / "r.jsonl", *references), allow_empty)
    return str(caught.value)


def test_rows_without_ids_are_matched_by_order(tmp_path: Path) -> None:
    sheet = answer_sheet.read(
        write(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"}),
        write(tmp_path / "r.jsonl", {"output": "ONE"}, {"output": ["TWO", "2"]}),
    )
    assert sheet.texts == [["one", "two"]]
    assert sheet.references == [["ONE"], ["TWO", "2"]]
    assert (sheet.ids, sheet.seeds, sheet.tokens, sheet.truncated) == ([0, 1], [0], None, None)


def test_rows_with_ids_are_matched_by_id_and_seed(tmp_path: Path) -> None:
    rows = [
        {"id": i, "seed": seed, "text": f"{i}/{seed}", "tokens": i + seed, "truncated": i == 7}
        for seed in (20, 10)
        for i in (9, 7)
    ]
    sheet = answer_sheet.read(
        write(tmp_path / "a.jsonl", *rows),
        write(tmp_path / "r.jsonl", *({"id": i, "output": "x"} for i in (7, 9))),
    )
    assert sheet.ids == [7, 9]
    assert sheet.seeds == [10, 20]
    assert sheet.texts == [["7/10", "9/10"], ["7/20", "9/20"]]
    assert sheet.tokens == [[17, 19], [27, 29]]
    assert sheet.truncated == [[True, False], [True, False]]


def test_seeds_without_ids_are_matched_by_order_within_a_seed(tmp_path: Path) -> None:
    rows = [{"seed": s, "text": t} for s, t in [(1, "a"), (2, "A"), (1, "b"), (2, "B")]]
    references = write(tmp_path / "r.jsonl", {"id": 5, "output": "x"}, {"id": 6, "output": "y"})
    assert answer_sheet.read(write(tmp_path / "a.jsonl", *rows), references).texts == [["a", "b"], ["A", "B"]]


def test_a_line_separator_inside_a_string_is_not_a_new_row(tmp_path: Path) -> None:
    given = write(tmp_path / "a.jsonl", {"text": "one\u2028more\u0085x"})
    sheet = answer_sheet.read(given, write(tmp_path / "r.jsonl", {"output": "x"}))
    assert sheet.texts == [["one\u2028more\u0085x"]]


def test_missing_and_extra_rows_are_counted(tmp_path: Path) -> None:
    references = [{"id": i, "output": "x"} for i in range(10)]
    message = refused(tmp_path, [{"id": i, "text": "x"} for i in (0, 1, 2, 77, 78)], references)
    assert "7 answers missing (id 3, id 4, id 5, id 6, id 7, …)" in message
    assert "2 answers without a reference (id 77, id 78)" in message


def test_a_shorter_file_is_never_cut_to_fit(tmp_path: Path) -> None:
    one, two = {"text": "x", "output": "x"}, {"text": "y", "output": "y"}
    assert "1 answers missing (id 1)" in refused(tmp_path, [one], [one, two])
    assert "1 answers without a reference (id 1)" in refused(tmp_path, [one, two], [one])
    assert "2 answers missing" in refused(tmp_path, [], [one, two])
    assert "1 reference file without rows" in refused(tmp_path, [], [])


def test_a_missing_seed_is_counted(tmp_path: Path) -> None:
    rows = [{"id": i, "seed": s, "text": "x"} for i in (0, 1) for s in (10, 20)][:-1]
    assert "1 answers missing (seed 20 id 1)" in refused(tmp_path, rows, [{"id": i, "output": "x"} for i in (0, 1)])


def test_repeated_rows_are_counted(tmp_path: Path) -> None:
    message = refused(tmp_path, [{"id": 0, "text": "x"}] * 2, [{"id": 0, "output": "x"}])
    assert "1 answers given twice (id 0)" in message
    message = refused(tmp_path, [{"id": 0, "text": "x"}], [{"id": 0, "output": "x"}] * 2)
    assert "1 references whose `id` occurred before (id 0)" in message


def test_wrong_types_and_empty_rows_are_counted_with_their_lines(tmp_path: Path) -> None:
    given = [
        {"text": 3},
        {"text": None},
        {"txt": "x"},
        {"text": ["x"]},
        "",
        "[1]",
        "{not json",
        {"text": "  "},
    ]
    references = [{"output": 3}, {"output": []}, {"output": ["x", ""]}, {"output": ["x", 3]}, {}, "null"]
    message = refused(tmp_path, given, [*references, {"output": "x"}, {"output": "y"}])
    for expected in (
        "2 answers whose `text` is not a string (a.jsonl:1, a.jsonl:4)",
        "2 answers without `text` (a.jsonl:2, a.jsonl:3)",
        "1 empty lines (a.jsonl:5)",
        "lines that are not an object (a.jsonl:6, r.jsonl:6)",
        "1 lines that are not JSON (a.jsonl:7)",
        "1 empty answers (a.jsonl:8)",
        "2 references whose `output` is neither a string nor a list of strings (r.jsonl:1, r.jsonl:4)",
        "2 empty references (r.jsonl:2, r.jsonl:3)",
        "1 references without `output` (r.jsonl:5)",
        "pass --allow-empty",
    ):
        assert expected in message


def test_wrong_keys_are_counted(tmp_path: Path) -> None:
    message = refused(tmp_path, [{"id": True, "seed": "1", "text": "x"}], [{"id": 1.5, "output": "x"}])
    assert "2 rows whose `id` is neither a whole number nor a string (a.jsonl:1, r.jsonl:1)" in message
    assert "1 rows whose `seed` is not a whole number (a.jsonl:1)" in message


def test_ids_on_some_rows_only_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, [{"id": 1, "text": "x"}, {"text": "y"}], [{"output": "x"}, {"output": "y"}])
    assert "1 rows without the `id` that others have (a.jsonl:2)" in message


def test_an_empty_answer_may_be_worth_nothing(tmp_path: Path) -> None:
    references = write(tmp_path / "r.jsonl", {"output": ["x", ""]}, {"output": "y"})
    sheet = answer_sheet.read(write(tmp_path / "a.jsonl", {"text": ""}, {"text": "y"}), references, allow_empty=True)
    assert scores.score_answers(sheet)["rouge_l"]["mean"] == 50.0


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    references = write(tmp_path / "r.jsonl", {"output": "x"})
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        answer_sheet.read(tmp_path / "nowhere.jsonl", references)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        answer_sheet.read(tmp_path / "latin.jsonl", references)


def test_scores_of_a_small_cell_by_hand() -> None:
    sheet = answer_sheet.Answers(
        ids=[7, 9],
        seeds=[10, 20],
        references=[["the cat"], ["a dog", "a b c d e"]],
        texts=[["the cat", "a cow"], ["", "a b c d e"]],
        tokens=[[3, 3], [1, 6]],
        truncated=[[False, False], [False, True]],
    )
    score = scores.score_answers(sheet)
    # per example: 100, 50 | 0, 100 -> per seed 75 and 50, sample standard deviation 25/√2
    assert score["per_example"] == [[100.0, 50.0], [0.0, 100.0]]
    assert score["rouge_l"] == {"mean": 62.5, "std": 17.6777, "per_seed": [75.0, 50.0]}
    assert score["exact_match"] == {"mean": 50.0, "ci95": [0.0, 100.0], "prompts": 2}
    assert score["response_tokens"] == {"mean": 3.25}
    assert score["truncated"] == {"mean": 25.0}
    assert score["distinct_4"] == {"mean": 100.0}  # the first seed has no 4-gram and no say
    assert score["repeated_4"]["mean"] == 0.0
    assert (score["ids"], score["seeds"]) == ([7, 9], [10, 20])


def test_one_seed_has_no_spread() -> None:
    assert scores.mean_and_std([12.5]) == {"mean": 12.5}
