"""The report: model text is harmless, nothing is loaded, every part is there."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from distill.project.errors import DataError
from distill.scoring import page, plots, results, samples, tables
from stages import plots as plots_stage
from tests.scored_project import (
    ATTACK,
    METHODS,
    NOTE,
    QUALITY,
    SETS,
    experiment_of,
    make_project,
    put,
    read,
    run,
    score_project,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose scores and results are made; tests only read it."""
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        score_project(monkeypatch, root)
    return root


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
        run(monkeypatch, project, plots_stage, "tiny")
    return (project / "results/tiny.html").read_text(encoding="utf-8")


def test_model_text_is_shown_and_not_run(report: str) -> None:
    assert "document.title = " not in report.replace("&#34;", '"').replace("&lt;script&gt;document.title = ", "")
    assert Elements(report).text.count(ATTACK) >= len(SETS) * (1 + len(QUALITY))
    assert report.count("<script>") == 1
    assert "<img" not in report


def test_page_loads_nothing(report: str) -> None:
    elements = Elements(report).found
    assert not [tag for tag, _ in elements if tag in ("link", "img", "iframe", "object", "embed", "base", "image")]
    loading = ("src", "srcset", "action", "data", "formaction", "poster", "background")
    assert not [(tag, attrs) for tag, attrs in elements if set(attrs) & set(loading)]
    links = [attrs[name] or "" for _, attrs in elements for name in ("href", "xlink:href") if name in attrs]
    assert all(link.startswith("#") for link in links)
    style = report[report.index("<style>") : report.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_page_has_every_part(report: str) -> None:
    elements = Elements(report)
    assert sum(tag == "svg" for tag, _ in elements.found) == len(SETS) + 3
    assert sum(tag == "article" for tag, _ in elements.found) == 50
    for expected in ("Rouge-L on toy_id", "Training loss", "Reverse KL", "Learning rate", NOTE):
        assert expected in elements.text
    assert "prefers-color-scheme: dark" in report
    assert "width=device-width" in report
    assert len(report) < 1_000_000


def test_ids_on_the_page_are_unique_and_references_resolve(report: str) -> None:
    elements = Elements(report).found
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {(attrs[name] or "")[1:] for _, attrs in elements for name in ("href", "xlink:href") if name in attrs}
    assert links <= set(ids)


def test_samples_are_laid_beside_their_own_scores(project: Path) -> None:
    experiment = experiment_of(project)
    chosen = samples.choose(experiment, results.read_scores(experiment, project), project, wanted=7)
    assert [(sample.set, sample.id) for sample in chosen] == [(name, i) for name in SETS for i in (0, 15, 30, 45)]
    for sample in chosen:
        responses = {response.model: response for response in sample.responses}
        assert list(responses) == ["teacher", *METHODS]
        best = max(responses[method].rouge_l for method in METHODS)
        expected = tuple(method for method in METHODS if responses[method].rouge_l == best) if best else ()
        assert sample.winners == expected
        exact = [response for response in sample.responses if response.text == sample.references[0]]
        assert all(response.rouge_l == 100.0 for response in exact)


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
    table = tables.build(experiment, read(project / "results/tiny.json"), {})
    html = page.render(experiment, table, [], [], [])
    assert "<h2>Training</h2>" not in html
    assert "0 samples" in html
