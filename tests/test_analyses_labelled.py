"""Labelled sets for calibration: the toy world's own, anyone's files, and the faults they may have."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from distill.evaluation.labelled import LabelSetSettings, read_labelled
from distill.project.errors import DataError, SettingsError
from distill.project.settings import parse, read_yaml
from distill.world import WorldSettings, build_world
from stages import labelled as labelled_stage
from tests.scored_project import put, put_rows, run

ROOT = Path(__file__).resolve().parents[1]


def settings(**changed: Any) -> LabelSetSettings:
    content = {
        "description": "x",
        "licence": "x",
        "instruction": "Is it so that {question}?",
        "input": "{passage}",
        "words": {"true": "Yes", "false": "No"},
    }
    return parse({**content, **changed}, LabelSetSettings, "test")


def shipped(name: str) -> LabelSetSettings:
    path = ROOT / f"labelsets/{name}.yaml"
    return parse(read_yaml(path), LabelSetSettings, str(path))


@pytest.mark.parametrize("path", sorted((ROOT / "labelsets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_labelset_is_valid(path: Path) -> None:
    assert len(shipped(path.stem).words) in (2, 3)


def test_toy_questions_are_balanced_answered_and_new() -> None:
    rows = read_labelled(shipped("toy_whether"), Path("unused"))
    assert rows == read_labelled(shipped("toy_whether"), Path("unused"))
    assert len(rows) == 300
    assert 120 < sum(row["answer"] for row in rows) < 180
    trained = {
        (row["instruction"], row["input"]) for row in build_world(WorldSettings(valid=0, test=0, documents=0)).train
    }
    assert not {(row["instruction"], row["input"]) for row in rows} & trained
    assert all(row["words"] == ["Yes", "No"] and row["input"] for row in rows)


def test_toy_moods_are_told_by_words_with_the_persons_name() -> None:
    rows = read_labelled(shipped("toy_mood"), Path("unused"))
    assert len(rows) == 300
    assert all(70 < sum(row["answer"] == place for row in rows) < 130 for place in range(3))
    for row in rows:
        name = row["input"].split()[0]
        assert row["words"] == [f"{name} is {mood}" for mood in ("happy", "sad", "angry")]
    [wept] = {row["answer"] for row in rows if "wept" in row["input"]}
    assert rows[0]["words"][wept].endswith("sad")


def test_stage_writes_what_params_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_rows(tmp_path / "mine.jsonl", [{"question": "a", "passage": "b", "label": True}])
    put(tmp_path / "params.yaml", "calibration: {mine: mine.jsonl}\n")
    put(tmp_path / "labelsets/mine.yaml", json.dumps(settings().model_dump(mode="json")))
    run(monkeypatch, tmp_path, labelled_stage, "mine")
    expected = {"id": 0, "instruction": "Is it so that a?", "input": "b", "words": ["Yes", "No"], "answer": 0}
    assert json.loads((tmp_path / "labelled/mine.jsonl").read_text()) == expected


def test_stage_counts_by_label_not_by_words_that_hold_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"true": "{name} is right", "false": "{name} is wrong"}
    rows = [{"question": "a", "passage": "b", "name": name, "label": True} for name in ("Ann", "Bo", "Cy")]
    put_rows(tmp_path / "mine.jsonl", rows)
    put(tmp_path / "params.yaml", "calibration: {mine: mine.jsonl}\n")
    put(tmp_path / "labelsets/mine.yaml", json.dumps(settings(words=words).model_dump(mode="json")))
    run(monkeypatch, tmp_path, labelled_stage, "mine")
    assert capsys.readouterr().out == "mine: 3 rows, 3 true, 0 false\n"


def test_faults_are_counted_and_named(tmp_path: Path) -> None:
    rows = [{"question": "a", "passage": "b", "label": label} for label in (True, "maybe", "FALSE")]
    put_rows(tmp_path / "x.jsonl", [*rows, {"question": "a", "label": True}])
    with pytest.raises(
        DataError, match=r"1 rows where `label` is 'maybe' \(first: row 2\); 1 rows where no field passage"
    ):
        read_labelled(settings(), tmp_path / "x.jsonl")


def test_braces_in_a_row_are_left_alone(tmp_path: Path) -> None:
    put_rows(tmp_path / "x.jsonl", [{"question": "{passage}", "passage": "{question}", "label": False}])
    [row] = read_labelled(settings(), tmp_path / "x.jsonl")
    assert (row["instruction"], row["input"], row["answer"]) == ("Is it so that {passage}?", "{question}", 1)


def test_text_files_in_a_folder_or_an_archive(tmp_path: Path) -> None:
    own = settings(
        instruction="Mood?",
        input="{text}",
        words={"good": "happy", "bad": "sad"},
        texts={"files": {"good": "a/pos.txt", "bad": "a/neg.txt"}, "encoding": "latin-1"},
        limit=4,
    )
    (tmp_path / "folder/a").mkdir(parents=True)
    (tmp_path / "folder/a/pos.txt").write_bytes("\n".join(f"caf\xe9 {i}" for i in range(10)).encode("latin-1"))
    (tmp_path / "folder/a/neg.txt").write_bytes(b"rain\n" * 10)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("pos", "neg"):
            archive.write(tmp_path / f"folder/a/{name}.txt", f"a/{name}.txt")
    rows = read_labelled(own, tmp_path / "folder")
    assert [(row["input"], row["answer"]) for row in rows] == [("café 0", 0), ("café 5", 0), ("rain", 1), ("rain", 1)]
    assert read_labelled(own, tmp_path / "a.zip") == rows
    put(tmp_path / "b.zip", "not an archive")
    with pytest.raises(DataError, match="neither a folder nor a ZIP archive"):
        read_labelled(own, tmp_path / "b.zip")
    with pytest.raises(DataError, match=r"holds no a/pos\.txt"):
        read_labelled(own, tmp_path)


def test_settings_that_no_prediction_could_satisfy_are_refused() -> None:
    with pytest.raises(SettingsError, match="same word"):
        settings(words={"true": "Yes", "false": "Yes"})
    with pytest.raises(SettingsError, match="at most one of"):
        settings(world={"questions": "whether"}, texts={"files": {}})


@pytest.mark.parametrize(
    ("name", "file", "counts"),
    [("boolq", "boolq_val.jsonl.xz", [2033, 1237]), ("sentiment", "sentence_polarity.zip", [5331, 5331])],
)
def test_real_sets_are_read(shared_data: Path, name: str, file: str, counts: list[int]) -> None:
    rows = read_labelled(shipped(name), shared_data / "calibration" / file)
    assert [sum(row["answer"] == place for row in rows) for place in (0, 1)] == counts
