"""From responses to results and tables: a made-up project run through the real commands."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distill.project.errors import DataError, SettingsError
from distill.scoring import results, tables
from stages import calibration as calibration_stage
from stages import report as report_stage
from stages import results as results_stage
from tests.scored_project import (
    LABELS,
    METHODS,
    SETS,
    experiment_of,
    home,
    made_and_scored,
    make_project,
    put,
    read,
    run,
    score_project,
)

ROOT = Path(__file__).resolve().parents[1]
RECORD = {"python": "3.11.7", "seconds": 1.0, "cpu_seconds": 1.0, "peak_rss_mib": 1.0, "device": "cpu"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose scores and results are made; tests only read it."""
    return made_and_scored(tmp_path_factory)


def numbers_in(content: Any) -> list[float]:
    if isinstance(content, dict):
        return [number for value in content.values() for number in numbers_in(value)]
    return [number for value in content for number in numbers_in(value)] if isinstance(content, list) else [content]


# --- results ------------------------------------------------------------------------------------------


def test_without_labelled_sets_calibration_is_left_out(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`calibration: {}`: no model is loaded for it, and results and report do without."""
    root = Path(shutil.copytree(project, tmp_path / "project"))
    with (root / "params.yaml").open("a") as stream:
        stream.write("calibration: {}\n")

    class Unloaded:
        def load(self) -> None:
            raise AssertionError("nothing is to be measured")

    monkeypatch.setattr("stages.cell.read_cell", lambda *_: Unloaded())
    for model in ("teacher", *METHODS):
        run(monkeypatch, root, calibration_stage, home(model), model)
    run(monkeypatch, root, results_stage, "tiny")
    content = read(root / "results/tiny.json")
    assert all(content[model]["calibration"] == {} for model in content)
    run(monkeypatch, root, report_stage)
    for text in ((root / f"results/report.{kind}").read_text() for kind in ("md", "html")):
        assert "Accuracy, " not in text and "Excess error" in text


def test_results_have_the_shape_that_dvc_metrics_reads(project: Path) -> None:
    content = read(project / "results/tiny.json")
    assert list(content) == ["teacher", *METHODS]
    for model, by_set in content.items():
        assert list(by_set) == [*SETS, *([] if model == "teacher" else ["kl", "exposure"]), "calibration"]
        for name in SETS:
            score = by_set[name]
            assert set(score) >= {"rouge_l", "exact_match", "response_tokens", "truncated", "loss"}
            assert set(score["rouge_l_by_length"]) <= {"0-5", "6-10", "11+"}
            assert set(score["rouge_l"]) == {"mean", "std", "per_seed", "ci95"}
            assert len(score["rouge_l"]["per_seed"]) == 3
            low, high = score["rouge_l"]["ci95"]
            assert low < score["rouge_l"]["mean"] < high
    drawn = read(project / "analyses/tiny/summary.json")
    assert drawn["metrics"] == content
    assert content["sft"]["exposure"]["error"] == drawn["exposure"]["models"]["sft"]["error"]
    assert set(content["sft"]["exposure"]) == {"error", "error_a_token", "error_as_released"}
    assert all(isinstance(number, float) and number == round(number, 4) for number in numbers_in(content))


def test_means_are_those_of_the_score_files(project: Path) -> None:
    score = read(project / "scores/tiny/kd/toy_id.json")
    assert read(project / "results/tiny.json")["kd"]["toy_id"]["rouge_l"]["mean"] == score["rouge_l"]["mean"]
    flat = [value for row in score["per_example"] for value in row]
    assert score["rouge_l"]["mean"] == pytest.approx(sum(flat) / len(flat), abs=1e-3)


def test_verdicts_are_of_minillm_against_each_other_model(project: Path) -> None:
    verdicts = read(project / "results/tiny.significance.json")["minillm"]
    assert list(verdicts) == ["teacher", "sft", "kd"]
    assert {name: verdicts["sft"][name]["verdict"] for name in SETS} == dict.fromkeys(SETS, "better")
    assert verdicts["teacher"]["toy_id"]["verdict"] == "worse"
    assert verdicts["kd"]["toy_id"]["verdict"] == "not distinguishable"
    content = read(project / "results/tiny.json")
    difference = content["minillm"]["toy_id"]["rouge_l"]["mean"] - content["sft"]["toy_id"]["rouge_l"]["mean"]
    assert verdicts["sft"]["toy_id"]["difference"] == pytest.approx(difference, abs=2e-4)
    assert verdicts["sft"]["toy_id"]["standard_error"] > 0


def test_nothing_is_judged_between_two_models_that_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    for model, name in itertools.product(("sft", "minillm"), SETS):
        # kd and the teacher read both sets; sft and minillm only the second.
        loss = 9.0 if name == "toy_id" else 1.0
        put(tmp_path / f"responses/tiny/{model}/{name}.losses.json", json.dumps([loss] * 30))
    score_project(monkeypatch, tmp_path)
    verdicts = read(tmp_path / "analyses/tiny/summary.json")["significance"]
    babble, sound = verdicts["minillm"]["sft"], verdicts["minillm"]["kd"]
    assert babble["toy_id"]["verdict"] == "both guess"
    assert babble["loss"]["toy_id"]["verdict"] == "both guess"
    assert babble["toy_shift"]["verdict"] == "better"
    assert babble["kl"]["reverse_kl"]["verdict"] == "better"
    assert sound["toy_id"]["verdict"] == "not distinguishable"
    table = tables.read("tiny", tmp_path)
    said = [note for note in table.notes if "no better than guessing" in note]
    assert [note.partition(" reads")[0] for note in said[:2]] == ["SFT", "MiniLLM"]
    assert "`toy_id` no better than guessing (9.00 nats a token, guessing 2." in said[0]
    assert "∅ not judged" in "".join(table.notes)
    for model in ("sft", "minillm"):
        put(tmp_path / f"responses/tiny/{model}/toy_shift.losses.json", json.dumps([9.0] * 30))
    look = {"loss": 17.2, "guessing": 7.1, "uniform": 10.8, "rows": 32}
    put(tmp_path / "runs/tiny/base.run.json", json.dumps({**RECORD, "first_look": look}))
    score_project(monkeypatch, tmp_path)
    babble = read(tmp_path / "analyses/tiny/summary.json")["significance"]["minillm"]["sft"]
    assert babble["kl"]["reverse_kl"]["verdict"] == babble["calibration"]["whether"]["ece"]["verdict"] == "both guess"
    run(monkeypatch, tmp_path, report_stage)
    page = (tmp_path / "results/report.html").read_text()
    assert "is not judged, for both read no better than guessing, against SFT" in page
    assert "tiny began from a model that is worse than guessing at random: 17.20 nats a token on 32 rows" in page


def test_every_model_may_be_the_reference(project: Path) -> None:
    verdicts = read(project / "analyses/tiny/summary.json")["significance"]
    assert verdicts["minillm"] == read(project / "results/tiny.significance.json")["minillm"]
    assert list(verdicts) == ["teacher", *METHODS]
    for reference, by_model in verdicts.items():
        assert list(by_model) == [model for model in ("teacher", *METHODS) if model != reference]
        for model, own in by_model.items():
            other = verdicts[model][reference]
            assert own.keys() == other.keys()
            for name in SETS:
                assert own[name]["difference"] == -other[name]["difference"]
                assert own[name]["ci95"] == [-bound for bound in reversed(other[name]["ci95"])]
                assert own[name]["p_value"] == other[name]["p_value"]
    assert verdicts["kd"]["sft"]["toy_id"]["verdict"] == "better"
    assert verdicts["sft"]["kd"]["toy_id"]["verdict"] == "worse"
    assert verdicts["kd"]["sft"]["kl"]["reverse_kl"]["difference"] < 0
    assert set(verdicts["kd"]["sft"]["calibration"]["whether"]) == {"accuracy", "ece"}


def test_without_minillm_there_is_still_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, examples=8)
    put(tmp_path / "params.yaml", (tmp_path / "params.yaml").read_text().replace("sft, minillm, kd", "sft, kd"))
    score_project(monkeypatch, tmp_path)
    assert read(tmp_path / "results/tiny.significance.json") == {}
    verdicts = read(tmp_path / "analyses/tiny/summary.json")["significance"]
    assert list(verdicts) == ["teacher", "sft", "kd"]
    assert set(verdicts["sft"]["kd"]) == {*SETS, "kl", "exposure", "calibration", "loss", "lengths"}


def test_params_name_models_as_a_reader_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, examples=8)
    params = (tmp_path / "params.yaml").read_text()
    put(tmp_path / "params.yaml", params + "labels: {kd: Word by word}\n")
    put(tmp_path / "runs/tiny/kd/meta.json", json.dumps({"tokens": "data, with the teacher's distribution"}))
    score_project(monkeypatch, tmp_path)
    models = read(tmp_path / "analyses/tiny/summary.json")["models"]
    assert models["kd"] == {"label": "Word by word", "tokens": "data, with the teacher's distribution"}
    assert models["minillm"] == {"label": "MiniLLM", "tokens": ""}
    put(tmp_path / "params.yaml", params + "labels: [kd]\n")
    with pytest.raises(SettingsError, match="`labels` must give a text for each name"):
        experiment_of(tmp_path)


def test_models_that_saw_other_labelled_prompts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, examples=8)
    path = tmp_path / "measures/tiny/kd/predictions.json"
    content = read(path)
    content["whether"]["prompts_too_long"] = 1
    put(path, json.dumps(content))
    with pytest.raises(DataError, match="saw different prompts of `whether`; run `dvc repro`"):
        score_project(monkeypatch, tmp_path)


def test_plot_data_has_one_row_for_each_cell(project: Path) -> None:
    lines = (project / "results/tiny.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "method,set,rouge_l,std"
    assert [line.split(",")[:2] for line in lines[1:]] == [[m, s] for m in ("teacher", *METHODS) for s in SETS]


def test_the_same_input_gives_the_same_bytes(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    score_project(monkeypatch, tmp_path)
    for root in (project, tmp_path):
        run(monkeypatch, root, report_stage)
    files = [path.relative_to(project) for folder in ("results", "analyses") for path in (project / folder).rglob("*")]
    files = [path for path in files if (project / path).is_file() and path.suffix != ".parquet"]
    expected = {"report.html", "report.md", "tiny.csv", "tiny.json", "tiny.models.json", "tiny.significance.json"}
    assert {path.name for path in files if path.parts[0] == "results"} == expected
    for path in files:
        assert (project / path).read_bytes() == (tmp_path / path).read_bytes(), path


def test_unknown_student_and_missing_scores_are_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean `tiny`"):
        results.read_student(project / "params.yaml", "tinny")
    with pytest.raises(DataError, match=r"scores/toy/teacher/toy_id\.json does not exist"):
        results.read_scores(experiment_of(project), tmp_path)


def test_an_evaluation_set_may_not_take_the_name_of_the_divergences(tmp_path: Path) -> None:
    put(
        tmp_path / "params.yaml",
        "students: {tiny: {family: toy}}\ndatasets: {kl: a}\nmethods: [sft]\nseed: 0\n",
    )
    with pytest.raises(SettingsError, match="`kl` is a name the results need"):
        experiment_of(tmp_path)


def test_models_scored_on_different_prompts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, examples=8)
    score_project(monkeypatch, tmp_path)
    path = tmp_path / "scores/tiny/kd/toy_id.json"
    put(path, json.dumps({**read(path), "ids": list(range(1, 9))}))
    with pytest.raises(DataError, match="kd and the teacher were scored on different prompts of `toy_id`"):
        run(monkeypatch, tmp_path, results_stage, "tiny")


# --- tables -------------------------------------------------------------------------------------------


def small_table(**means: float) -> tables.ResultTable:
    experiment = results.StudentTable(
        "s", "f", tuple(name for name in means if name != "teacher"), ("x",), 0, labels=LABELS
    )
    metrics = {
        name: {"x": {"rouge_l": {"mean": mean, "std": 1.26, "per_seed": [mean, mean]}}} for name, mean in means.items()
    }
    verdicts = {"minillm": {"sft": {"x": {"verdict": "better"}}, "kd": {"x": {"verdict": "not distinguishable"}}}}
    return tables.build(experiment, metrics, verdicts, note="A note.")


def test_a_table_says_what_one_seed_few_prompts_and_other_words_mean() -> None:
    experiment = results.StudentTable("s", "f", ("sft", "minillm"), ("x",), 0, labels=LABELS)
    unread = {"references": 3, "of_references": 9, "answers": 4, "of_answers": 8}
    score = {"mean": 5.0, "std": 0.0, "per_seed": [5.0], "words": "unicode", "unread": unread}
    metrics = {name: {"x": {"rouge_l": score}} for name in experiment.models}
    verdicts = {"minillm": {"sft": {"x": {"verdict": "too few prompts"}}}}
    assert tables.to_markdown(tables.build(experiment, metrics, verdicts)).splitlines() == [
        "| s (f) | x (Unicode) |",
        "| --- | ---: |",
        "| Teacher | 5.0 |",
        "| SFT | **5.0** ? |",
        "| MiniLLM | **5.0** |",
        "",
        "Rouge-L, of one sampling seed; the best student in bold.  ",
        "Rouge-L (Unicode): over words of any script, no figure of the paper's.  ",
        "Rouge-L cannot read 3 of 9 references of `x`.  ",
        "Rouge-L cannot read up to 50 % of a model's answers to `x`.  ",
        "Against MiniLLM on the same prompts (paired bootstrap, 95 %): ▼ below it, ▲ above it, ≈ not distinguishable, "
        "? the models differ at fewer than 6 prompts: no test can tell.",
    ]


def test_markdown_marks_the_best_student_and_the_verdicts() -> None:
    lines = tables.to_markdown(small_table(teacher=90.0, sft=40.0, kd=55.04, minillm=55.0, odd=41.0)).splitlines()
    assert lines == [
        "| s (f) | x |",
        "| --- | ---: |",
        "| Teacher | 90.0 ± 1.3 |",
        "| SFT | 40.0 ± 1.3 ▼ |",
        "| KD | **55.0 ± 1.3** ≈ |",
        "| MiniLLM | **55.0 ± 1.3** |",
        "| odd | 41.0 ± 1.3 |",
        "",
        "Rouge-L, mean ± standard deviation over 2 sampling seeds; the best student in bold.  ",
        "Against MiniLLM on the same prompts (paired bootstrap, 95 %): "
        "▼ below it, ▲ above it, ≈ not distinguishable.  ",
        "A note.",
    ]


def test_lowest_reverse_kl_is_the_best(project: Path) -> None:
    content = read(project / "results/tiny.json")
    content["kd"]["kl"]["reverse_kl"]["mean"] = 0.05
    table = tables.build(experiment_of(project), content, {})
    cells = {row.name: row.cells[-1] for row in table.rows}
    assert cells["Teacher"] == tables.Cell("–")
    assert [name for name, cell in cells.items() if cell.best] == ["KD"]


def test_results_that_lack_a_cell_are_refused(project: Path) -> None:
    content = read(project / "results/tiny.json")
    del content["sft"]["toy_id"]
    with pytest.raises(DataError, match=r"lacks sft\.toy_id; run `dvc repro`"):
        tables.build(experiment_of(project), content, {})
