"""Files of results/ that hold something else than a stage wrote: one sentence with the fix, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import show as show_command
from distill.project.errors import DataError
from distill.project.files import read_json, read_jsonl
from distill.scoring.stored import read_summary
from tests.scored_project import put
from tests.tiny_pipeline import in_folder

ROOT = Path(__file__).resolve().parents[1]


SHAPES = [
    ("tiny.json", "[]", "it holds a list in place of a mapping"),
    ("tiny.json", "null", "it holds null in place of a mapping"),
    ("tiny.json", '"text"', "it holds a text in place of a mapping"),
    ("tiny.json", "7", "it holds a number in place of a mapping"),
    ("tiny.json", '{"teacher": {', "Expecting property name"),
    ("tiny.json", "", "Expecting value"),
    pytest.param("tiny.json", "[" * 100_000, "recursion", id="nested"),
    ("tiny.json", '{"teacher": null}', "teacher is no mapping"),
    ("tiny.json", '{"teacher": {"toy_id": [1]}}', "teacher.toy_id is no mapping"),
    ("tiny.json", '{"teacher": {"toy_id": {"rouge_l": 3}}}', "teacher.toy_id.rouge_l is no mapping"),
    ("tiny.json", '{"teacher": {"toy_id": {"rouge_l": {}}}}', "teacher.toy_id.rouge_l has no mean"),
    ("tiny.json", '{"teacher": {"toy_id": {"rouge_l": {"mean": "3"}}}}', "teacher.toy_id.rouge_l.mean is no number"),
    (
        "tiny.json",
        '{"teacher": {"toy_id": {"rouge_l": {"mean": 3, "ci95": [1]}}}}',
        "teacher.toy_id.rouge_l.ci95 holds other things than two numbers",
    ),
    ("tiny.significance.json", "[1]", "it holds a list in place of a mapping"),
    ("tiny.significance.json", '{"minillm": {"sft": 3}}', "minillm.sft is no mapping"),
    ("tiny.models.json", "[]", "it holds a list in place of a mapping"),
    ("tiny.models.json", '{"sft": {"label": 3}}', "sft.label is no text"),
]


@pytest.mark.parametrize(("name", "content", "reason"), SHAPES)
def test_a_results_file_of_another_shape_is_one_sentence(
    tmp_path: Path, name: str, content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("params.yaml", "profiles/toy.yaml", *(f"results/tiny{part}" for part in (".json", ".models.json"))):
        put(tmp_path / file, (ROOT / file).read_text(encoding="utf-8"))
    put(tmp_path / "results/tiny.significance.json", "{}")
    put(tmp_path / "results" / name, content)
    with pytest.raises(SystemExit, match="2"):
        in_folder(tmp_path)(show_command.main)
    said = capsys.readouterr().err
    assert said.startswith(f"error: results/{name} is damaged (") and reason in said
    assert said.endswith("); delete it and run `dvc repro`\n") and said.count("\n") == 1


def test_the_reports_source_is_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for content, reason in (("{}", "models is no mapping"), ("[]", "it holds a list")):
        path.write_text(content)
        with pytest.raises(DataError, match=reason):
            read_summary(path)


def test_every_line_of_a_file_of_rows_is_a_mapping(tmp_path: Path) -> None:
    rows, noise = tmp_path / "rows.jsonl", tmp_path / "noise.json"
    rows.write_text('{"a": 1}\n[]\n')
    noise.write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="it holds a list in place of a mapping"):
        read_jsonl(rows)
    with pytest.raises(DataError, match=r"noise\.json is damaged \(.* delete it and run `dvc repro`"):
        read_json(noise)
    noise.write_text("[1.5]")
    assert read_json(noise, shape=list) == [1.5]
