"""The report: model text is harmless, nothing is loaded, every part is there."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.project.errors import DataError
from distill.scoring import page, plots, provenance, rosters, samples
from stages import report as report_stage
from tests.browser import Browser, chromium
from tests.scored_project import (
    ATTACK,
    METHODS,
    NOTE,
    SETS,
    WORDS,
    experiment_of,
    made_and_scored,
    put,
    put_rows,
    read,
    run,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose scores and results are made; tests only read it."""
    return made_and_scored(tmp_path_factory)


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(project: Path) -> str:
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, project, report_stage)
    return (project / "results/report.html").read_text(encoding="utf-8")


def samples_in(report: str) -> Any:
    """The block of JSON that the page's script lays out."""
    block = report.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(block)


def test_model_text_never_becomes_markup(report: str) -> None:
    assert report.count("<script") == 2
    assert report.count("</script>") == 2
    assert "<img" not in report
    content = samples_in(report)
    assert all(ATTACK in prompt[1] for each in content["sets"].values() for prompt in each["prompts"])
    assert all(by_set[name][0][0] == ATTACK for by_set in content["answers"].values() for name in SETS)


def test_page_loads_nothing(report: str) -> None:
    elements = Elements(report).found
    assert not [tag for tag, _ in elements if tag in ("img", "iframe", "object", "embed", "base", "image")]
    loading = ("src", "srcset", "action", "data", "formaction", "poster", "background")
    assert not [(tag, attrs) for tag, attrs in elements if set(attrs) & set(loading)]
    links = [attrs[name] or "" for _, attrs in elements for name in ("href", "xlink:href") if name in attrs]
    assert all(link.startswith("#") or link == "data:," for link in links)
    style = report[report.index("<style>") : report.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_page_has_every_part(report: str) -> None:
    elements = Elements(report)
    for expected in (
        "Rouge-L on toy_id",
        "Training loss",
        "Learning rate",
        "Excess accumulated error (%)",
        "Divergence from the teacher",
        "Reliability on whether",
        "Loss on the references",
        "Distinct 4-grams",
        "Repeated 4-grams",
        "Response length",
        "Rouge-L by reference length, toy_shift",
        "LLM judge: not judged.",
        "SHA-256",
        NOTE,
    ):
        assert expected in elements.text, expected
    assert sum(tag == "svg" for tag, _ in elements.found) == len(SETS) + 3 + 2 + 1 + 3 + 1 + len(SETS)
    assert "prefers-color-scheme: dark" in report
    assert "width=device-width" in report
    assert len(report) < 1_000_000


def test_verdicts_stand_in_words(project: Path, report: str) -> None:
    verdicts = read(project / "results/tiny.significance.json")["minillm"]
    text = Elements(report).text
    for verdict in ("better", "worse", "not distinguishable"):
        assert verdict in text
    for model, expected in (("sft", "holds against SFT"), ("kd", "is not settled against KD")):
        assert verdicts[model]["toy_id"]["verdict"] == {"sft": "better", "kd": "not distinguishable"}[model]
        assert expected in text


def test_markdown_twin_has_tables_with_intervals_and_provenance(project: Path, report: str) -> None:
    text = (project / "results/report.md").read_text(encoding="utf-8")
    low, high = read(project / "results/tiny.json")["minillm"]["toy_id"]["rouge_l"]["ci95"]
    assert f"[{low:.1f}, {high:.1f}]" in text
    for expected in (
        "## tiny: paired tests against MiniLLM",
        "not distinguishable",
        "## Provenance",
        "evaluation/toy_id.jsonl",
        NOTE,
    ):
        assert expected in text
    assert "<" not in text.replace(NOTE, "")


def test_ids_on_the_page_are_unique_and_references_resolve(report: str) -> None:
    elements = Elements(report).found
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {(attrs[name] or "")[1:] for _, attrs in elements for name in ("href", "xlink:href") if name in attrs}
    assert links - {"ata:,"} <= set(ids)


def roster_of(project: Path) -> rosters.Roster:
    return rosters.read(experiment_of(project), {})


def test_samples_are_laid_beside_their_own_scores(project: Path) -> None:
    content = samples.collect([experiment_of(project)], [roster_of(project)], project)
    assert content["students"][0]["models"][0] == ["toy/teacher", "teacher", "Teacher"]
    for name in SETS:
        prompts = content["sets"][name]["prompts"]
        assert len(prompts) == content["sets"][name]["total"] == 60
        for model, by_set in content["answers"].items():
            scores = read(project / f"scores/{model}/{name}.json")["per_example"][0]
            assert [points for _, points, _ in by_set[name]] == [round(score, 1) for score in scores]
            exact = [
                points for prompt, (text, points, _) in zip(prompts, by_set[name], strict=True) if text in prompt[4]
            ]
            assert exact == [100.0] * len(exact)


def test_samples_over_the_limit_are_thinned_evenly(project: Path) -> None:
    whole = samples.collect([experiment_of(project)], [roster_of(project)], project)
    thinned = samples.collect(
        [experiment_of(project)], [roster_of(project)], project, most_bytes=len(json.dumps(whole)) // 2
    )
    for name in SETS:
        places = [prompt[0] for prompt in thinned["sets"][name]["prompts"]]
        assert 20 <= len(places) <= 35
        assert set(np.diff(places)) <= {1, 2, 3}
        assert thinned["sets"][name]["total"] == 60
        for model, by_set in thinned["answers"].items():
            assert by_set[name] == [whole["answers"][model][name][place] for place in places]


def test_spread_takes_positions_evenly() -> None:
    assert samples.spread(10, 4) == [0, 2, 5, 7]
    assert samples.spread(3, 10) == [0, 1, 2]
    assert samples.spread(0, 10) == []


def test_curves_are_thinned_by_averages() -> None:
    steps, values = plots.thin(([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0]), points=3)
    assert (steps, values) == ([1.5, 3.5, 5.0], [15.0, 35.0, 50.0])
    assert plots.thin(([], [])) == ([], [])


def test_a_damaged_curve_is_named(tmp_path: Path) -> None:
    put(tmp_path / "loss.tsv", "step\tloss\n1\t2.0\n2\n")
    with pytest.raises(DataError, match=r"loss\.tsv:3 is not"):
        plots.read_curve(tmp_path / "loss.tsv")


def test_a_page_without_curves_says_nothing_of_training(project: Path) -> None:
    experiment = experiment_of(project)
    student = page.student(experiment, read(project / "analyses/tiny/summary.json"), {})
    html = page.render([student], samples.collect([experiment], [student.roster], project), provenance.read(project))
    assert "<h3>Training</h3>" not in html


def test_students_of_one_family_share_a_table(project: Path) -> None:
    summary = read(project / "analyses/tiny/summary.json")
    experiments = [experiment_of(project), replace(experiment_of(project), student="small")]
    [(family, table)] = page.by_family([page.student(each, summary, {}) for each in experiments], "minillm")
    assert family == "toy"
    assert [row.group for row in table.rows] == ["", *["tiny"] * 3, *["small"] * 3]
    assert [row.name for row in table.rows[:4]] == ["Teacher", "SFT", "MiniLLM", "KD"]


def widen(summary: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """The summary with the measurements of `toy_id` for all of `sets`, and those of KD for a fifth model."""
    metrics = {}
    for model, content in {**summary["metrics"], "seqkd": summary["metrics"]["kd"]}.items():
        others = {name: value for name, value in content.items() if name not in SETS}
        metrics[model] = {**dict.fromkeys(sets, content["toy_id"]), **others}
    drawn = {**summary, "metrics": metrics, "lengths": dict.fromkeys(sets, summary["lengths"]["toy_id"])}
    for part in (drawn["exposure"], *drawn["calibration"].values(), *drawn["lengths"].values()):
        part["models"]["seqkd"] = part["models"]["kd"]
    return drawn


@pytest.mark.slow
def test_large_report_is_made_in_time_and_stays_small(project: Path, tmp_path: Path) -> None:
    """5 models × 5 sets × 1,000 examples, responses of some 90 words: under 30 s and 20 MB."""
    rng, sets = random.Random(0), [f"set_{i}" for i in range(5)]
    experiment = replace(experiment_of(project), methods=(*METHODS, "seqkd"), sets=tuple(sets))

    def words(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    for name in sets:
        rows = [
            {"id": i, "instruction": words(60), "input": words(200), "output": [words(180)], "category": "x"}
            for i in range(1000)
        ]
        put_rows(tmp_path / f"evaluation/{name}.jsonl", rows)
        for model in experiment.models:
            place = f"{experiment.home(model)}/{model}/{name}"
            answers = [
                {"id": i, "seed": seed, "text": words(180), "tokens": 90, "truncated": False}
                for seed in (10, 20, 30, 40, 50)
                for i in range(1000)
            ]
            put_rows(tmp_path / f"responses/{place}.jsonl", answers)
            points = [[100 * rng.random() for _ in rows] for _ in range(5)]
            put(tmp_path / f"scores/{place}.json", json.dumps({"per_example": points}))
    put(tmp_path / "params.yaml", (project / "params.yaml").read_text(encoding="utf-8"))
    # of this process alone: a busy machine makes no page slow
    began = time.process_time()
    summary = widen(read(project / "analyses/tiny/summary.json"), sets)
    student = page.student(experiment, summary, plots.read_curves(experiment, project))
    html = page.render([student], samples.collect([experiment], [student.roster], tmp_path), provenance.read(tmp_path))
    seconds, size = time.process_time() - began, len(html.encode())
    print(f"{seconds:.1f} s, {size / 1e6:.1f} MB")
    assert seconds < 30
    assert size < 20e6
    put(tmp_path / "report.html", html)
    with Browser(chromium(), tmp_path / "browser") as opened:
        assert opened.open((tmp_path / "report.html").as_uri()) < 15
        assert len(choose(opened, words="trader stone", winner="kd")) == 20


# --- in a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(project: Path, report: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The report, opened in a real browser."""
    with Browser(chromium(), tmp_path_factory.mktemp("browser")) as opened:
        opened.open((project / "results/report.html").as_uri())
        yield opened


def choose(tab: Browser, **fields: str) -> list[str]:
    """Set filters as a person would; the heads of the cards that are shown."""
    for name, value in fields.items():
        tab.evaluate(
            f"(form.{name}.value = {json.dumps(value)},"
            f" form.{name}.dispatchEvent(new Event('input', {{bubbles: true}})), 0)"
        )
    shown: list[str] = tab.evaluate("[...document.querySelectorAll('article')].map(card => card.innerText)")
    return shown


def test_browser_opens_it_without_errors_or_requests(tab: Browser, project: Path) -> None:
    page_itself = (project / "results/report.html").as_uri()
    assert tab.requests == [page_itself]
    assert tab.messages == []
    assert tab.evaluate("document.title") == "Distillation report"
    assert tab.evaluate("document.images.length") == 0
    assert ATTACK in tab.evaluate("document.querySelector('article').textContent")


def test_filters_work(tab: Browser, project: Path) -> None:
    count = "document.getElementById('count').textContent"
    assert len(choose(tab, words="", set="", winner="")) == 20
    assert tab.evaluate(count) == "120 of 120 prompts"
    assert all(card.startswith("toy_shift · ") for card in choose(tab, set="toy_shift"))
    assert tab.evaluate(count) == "60 of 120 prompts"
    tab.evaluate("(more.click(), more.click(), 0)")
    assert tab.evaluate("document.querySelectorAll('article').length") == 60
    assert tab.evaluate("more.hidden")
    choose(tab, winner="kd")
    scores = {m: read(project / f"scores/tiny/{m}/toy_shift.json")["per_example"][0] for m in METHODS}
    best = [
        kd
        for kd, *others in zip(scores["kd"], *(scores[m] for m in METHODS if m != "kd"), strict=True)
        if kd > 0 and round(kd, 1) >= max(round(other, 1) for other in others)
    ]
    assert tab.evaluate(count) == f"{len(best)} of 120 prompts"
    cards = choose(tab, winner="", words="TRADER market")
    assert cards
    assert all("trader" in card and "market" in card for card in cards)
    assert choose(tab, words="no such word anywhere") == []
    assert tab.messages == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_its_window(tab: Browser, width: int, dark: bool) -> None:
    tab.show(width, 800, dark)
    choose(tab, words="", set="", winner="")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(20, 23, 26)" if dark else "rgb(252, 252, 251)")
