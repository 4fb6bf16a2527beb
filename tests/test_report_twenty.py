"""The report of twenty methods: it fits, a reader picks what others are compared with, charts stay readable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.scoring import looks, page, provenance, rosters, verdicts
from tests import twenty_methods
from tests.browser import Browser, chromium
from tests.twenty_methods import ATTACK, DATA, METHODS, OWN, TEACHERS

ORIGIN = provenance.Provenance(revision="", versions={}, runs=(), data=(), settings={})


@pytest.fixture(scope="module")
def student() -> page.Student:
    return page.student(twenty_methods.experiment(), twenty_methods.summary(), twenty_methods.curves())


@pytest.fixture(scope="module")
def html(student: page.Student) -> str:
    return page.render([student], twenty_methods.samples(), ORIGIN)


@pytest.fixture(scope="module")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(chromium(), tmp_path_factory.mktemp("browser")) as browser:
        browser.show(1280, 900)
        yield browser


@pytest.fixture
def tab(opened: Browser, file: Path) -> Browser:
    """The page as it opens, at 1,280 pixels."""
    opened.show(1280, 900)
    opened.open(file.as_uri())
    return opened


# --- order, names, looks ------------------------------------------------------------------------------


def test_methods_stand_by_the_origin_of_their_tokens_below_the_teacher() -> None:
    experiment = twenty_methods.experiment()
    shuffled = replace(experiment, methods=("minillm", "seqkd", "kd", "sft", "gkd", "sft_long"))
    roster = rosters.read(shuffled, twenty_methods.summary())
    assert [model.name for model in roster.models] == ["teacher", "sft", "sft_long", "kd", "seqkd", "minillm", "gkd"]
    assert [title for title, _ in roster.groups] == list(rosters.GROUPS.values())
    assert roster.label("sft_long") == "SFT, twice as long"
    assert roster.section("teacher") == ""


def test_without_a_word_on_tokens_the_order_is_that_of_params() -> None:
    experiment = replace(twenty_methods.experiment(), methods=("minillm", "sft", "odd"))
    roster = rosters.read(experiment, {})
    assert [model.label for model in roster.models] == ["Teacher", "MiniLLM", "SFT", "odd"]
    assert [title for title, _ in roster.groups] == [""]
    half = rosters.read(experiment, {"models": {"sft": {"label": "Mine", "tokens": DATA}}})
    assert [model.label for model in half.models] == ["Teacher", "Mine", "MiniLLM", "odd"]
    assert half.section("odd") == "Origin of the training tokens not recorded"


def test_the_report_opens_with_minillm_else_the_first_method() -> None:
    assert rosters.first_reference(["teacher", "sft", "minillm"]) == "minillm"
    assert rosters.first_reference(["teacher", "sft", "kd"]) == "sft"
    assert rosters.first_reference(["teacher"]) == "teacher"
    assert rosters.first_reference([]) == ""


def test_looks_differ_and_lines_are_few_in_every_panel(student: page.Student) -> None:
    found = looks.styles(student.roster).values()
    assert len({(look.color, look.dash) for look in found}) == 21
    panels = looks.panels(student.roster, list(student.experiment.models))
    assert all(len(panel.models) <= looks.FEW + 1 and panel.models[0] == "teacher" for panel in panels)
    assert [name for panel in panels for name in panel.models[1:]] == [model.name for model in student.roster.methods]
    unsaid = rosters.read(student.experiment, {})
    assert [len(panel.models) for panel in looks.panels(unsaid, list(METHODS))] == [6, 7, 7]
    assert len({(look.color, look.dash) for look in looks.styles(unsaid).values()}) == 21


def test_whiskers_go_with_their_bars(student: page.Student) -> None:
    # the bar, the whisker and its two ends, number and name
    assert [student.scores[0].svg.count(f'data-model="{name}"') for name in student.experiment.models] == [6] * 21


def test_every_drawn_method_is_named_in_its_panel(student: page.Student) -> None:
    [chart] = [each for each in student.curves if each.title == "Validation Rouge-L: on own samples"]
    for name, (label, tokens, _) in METHODS.items():
        assert (f'data-model="{name}"' in chart.svg) == (tokens == OWN)
        assert (f">{label}<" in chart.svg) == (tokens == OWN)


# --- comparisons --------------------------------------------------------------------------------------


def test_a_comparison_is_turned_round_for_its_row(student: page.Student) -> None:
    entry = student.summary["significance"]["sft"]["gkd"]["toy_id"]
    assert entry["verdict"] == "worse"
    row = next(row for row in student.verdicts("sft")[0].rows if row.model == "gkd")
    low, high = entry["ci95"]
    cell = row.cells[1]
    assert (cell.text, cell.sign, cell.tone) == (f"{-entry['difference']:+.1f}", "▲", "good")
    assert cell.detail == f"[{-high:+.1f}, {-low:+.1f}]"
    assert row.cells[0].text == "3 better"


def test_two_directions_of_a_pair_are_opposite(student: page.Student) -> None:
    turned = {"▲": "▼", "▼": "▲", "≈": "≈", "": ""}
    for part, (ours, theirs) in enumerate(zip(student.verdicts("minillm"), student.verdicts("gkd"), strict=True)):
        assert ours.columns == theirs.columns, part
        one = next(row for row in ours.rows if row.model == "gkd").cells[1:]
        other = next(row for row in theirs.rows if row.model == "minillm").cells[1:]
        assert [cell.sign for cell in one] == [turned[cell.sign] for cell in other]


def test_the_paper_is_marked_from_either_side(student: page.Student) -> None:
    def cell(reference: str, model: str) -> Any:
        return next(row for row in student.verdicts(reference)[0].rows if row.model == model).cells[1]

    assert (cell("minillm", "sft").sign, cell("minillm", "sft").mark) == ("▼", "✓")
    assert (cell("sft", "minillm").sign, cell("sft", "minillm").mark) == ("▲", "✓")
    assert cell("sft", "kd").mark == cell("minillm", "gkd").mark == ""


def test_old_results_offer_minillm_alone(student: page.Student) -> None:
    significance = {"minillm": student.summary["significance"]["minillm"]}
    old = replace(student, summary={**student.summary, "significance": significance})
    assert page.offered([old]) == {"minillm": "MiniLLM"}
    alone = replace(student, summary={**student.summary, "significance": {}})
    assert page.offered([alone]) == {}
    assert verdicts.build(alone.experiment, alone.roster, {}, "") == []
    assert "paired tests" not in page.to_markdown([alone], ORIGIN)


def test_a_label_is_text_wherever_it_stands(student: page.Student) -> None:
    label = "k$_$ | <b>x</b> $y$"
    summary = {**student.summary, "models": {"sft": {"label": label, "tokens": DATA}}}
    experiment = replace(student.experiment, methods=("sft", "minillm"))
    odd = page.student(experiment, summary, {})
    html = page.render([odd], twenty_methods.samples(), ORIGIN)
    assert "<b>" not in html
    assert ">k$_$ | &lt;b&gt;x&lt;/b&gt; $y$<" in odd.scores[0].svg
    assert "| k$_$ \\| <b>x</b> $y$ |" in page.to_markdown([odd], ORIGIN)


def test_exposure_bias_is_given_by_both_definitions(student: page.Student, html: str) -> None:
    columns = student.verdicts("minillm")[1].columns
    assert "Excess accumulated error, % ↓" in columns
    assert "Excess error as released, % ↓" in columns
    assert "as released" in html


def test_markdown_has_groups_and_the_reference_the_page_opens_with(student: page.Student) -> None:
    lines = page.to_markdown([student], ORIGIN).splitlines()
    assert "## tiny: paired tests against MiniLLM" in lines
    place = lines.index("| *On the teacher's samples* |  |  |  |  |")
    names = [label for label, tokens, _ in METHODS.values() if tokens == TEACHERS]
    assert [line.split(" | ")[0] for line in lines[place + 1 : place + 4]] == [f"| {name}" for name in names]
    widths = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in lines if line.startswith("| Teacher")]
    assert max(widths) <= 8


# --- in a browser -------------------------------------------------------------------------------------

CELLS = "row => [row.dataset.model, [...row.querySelectorAll('td')].map({})]"
SIGN = CELLS.format("cell => cell.querySelector('.sign')?.innerText.trim() ?? ''")
TEXT = CELLS.format("cell => cell.textContent.replace('\\u00a0', ' ').trim()")
SIGNS = f"[...document.querySelectorAll('#results tr[data-model]')].map({SIGN})"
PAIRED = (
    "[...document.querySelectorAll('.paired table')]"
    f".map(table => [...table.querySelectorAll('tr[data-model]')].map({TEXT}))"
)
PICKS = "[...document.querySelectorAll('select.pick')].map(each => each.value)"


def pick(tab: Browser, reference: str) -> None:
    """Choose the model to compare with, as the browser tells the page of it."""
    tab.evaluate(
        f"(pick => {{ pick.value = '{reference}'; pick.dispatchEvent(new Event('change')) }})"
        "(document.querySelector('select.pick'))"
    )


def signs_of(student: page.Student, reference: str) -> list[Any]:
    return [[row.model, [cell.sign for cell in row.cells]] for row in student.table(reference).rows]


def paired_of(student: page.Student, reference: str) -> list[Any]:
    def text(cell: Any) -> str:
        mark = cell.sign + cell.mark
        return f"{cell.text}{' ' if mark else ''}{mark}{cell.detail}"

    return [
        [[row.model, [text(cell) for cell in row.cells]] for row in table.rows] for table in student.verdicts(reference)
    ]


def test_nothing_scrolls_sideways_at_1280_pixels(tab: Browser) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    wide = "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth)"
    assert tab.evaluate(f"{wide}.map(each => each.getAttribute('aria-label'))") == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
    tab.show(400, 800)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400


def test_it_opens_without_network_and_runs_no_text_of_a_model(tab: Browser, file: Path) -> None:
    assert set(tab.requests) == {file.as_uri()}
    assert tab.messages == []
    assert tab.evaluate("document.title") == "Distillation report"
    assert ATTACK in tab.evaluate("document.querySelector('article').textContent")


def test_picking_another_model_changes_signs_and_paired_tests(tab: Browser, student: page.Student) -> None:
    assert tab.evaluate(PICKS) == ["minillm"] * 2
    assert tab.evaluate(SIGNS) == signs_of(student, "minillm")
    for reference in ("gkd", "teacher", "minillm"):
        pick(tab, reference)
        assert tab.evaluate(SIGNS) == signs_of(student, reference)
        assert tab.evaluate(PAIRED) == paired_of(student, reference)
        assert tab.evaluate(PICKS) == [reference] * 2
        marked = tab.evaluate("[...document.querySelectorAll('tr.reference')].map(row => row.dataset.model)")
        assert set(marked) == {reference}
    assert tab.evaluate("localStorage.length + sessionStorage.length") == 0


def test_the_choice_is_made_by_keyboard(tab: Browser, student: page.Student) -> None:
    tab.evaluate("document.querySelector('select.pick').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="ArrowUp", code="ArrowUp", windowsVirtualKeyCode=38)
    assert tab.evaluate("document.querySelector('select.pick').value") == "distillm"
    assert tab.evaluate(SIGNS) == signs_of(student, "distillm")


def test_methods_are_switched_off_in_charts_and_responses(tab: Browser) -> None:
    faded = "[...new Set([...document.querySelectorAll('svg .faded')].map(each => each.dataset.model))].sort()"
    answers = "document.querySelectorAll('article:first-child .answers > div').length"
    assert tab.evaluate(faded) == []
    assert tab.evaluate(answers) == 22
    tab.evaluate("document.querySelector('.legend input[value=kd]').click()")
    assert tab.evaluate(faded) == ["kd"]
    assert tab.evaluate(answers) == 21
    group = "[...document.querySelectorAll('.legend button')].at(-1)"
    tab.evaluate(f"{group}.click()")
    others = sorted({"teacher", *(name for name, (_, tokens, _) in METHODS.items() if tokens != OWN)})
    assert tab.evaluate(faded) == others
    panels = "[...document.querySelectorAll('figure:not([hidden]) h4')].map(each => each.textContent)"
    shown = [title for title in tab.evaluate(panels) if title.startswith("Validation Rouge-L")]
    assert shown == ["Validation Rouge-L: on own samples"]
    tab.evaluate(f"{group}.click()")
    assert tab.evaluate(faded) == []
    assert tab.messages == []


def test_a_student_without_the_picked_model_says_so(opened: Browser, student: page.Student, tmp_path: Path) -> None:
    significance = {name: student.summary["significance"][name] for name in ("sft", "kd")}
    content = {**student.summary, "significance": significance}
    other = replace(student, experiment=replace(student.experiment, student="small"), summary=content)
    path = tmp_path / "report.html"
    path.write_text(page.render([student, other], twenty_methods.samples(), ORIGIN), encoding="utf-8")
    opened.open(path.as_uri())
    shown = "[...document.querySelectorAll('.paired, .absent')].filter(each => !each.hidden)"
    shown += ".map(each => [each.dataset.owner, each.matches('.paired')])"
    assert opened.evaluate(shown) == [["tiny", True], ["small", False]]
    pick(opened, "kd")
    assert opened.evaluate(shown) == [["tiny", True], ["small", True]]
    rows = opened.evaluate("[...document.querySelectorAll('#results tr[data-owner=small]')].map(row => row.innerText)")
    assert any("▼" in row or "▲" in row for row in rows)
    opened.evaluate("document.querySelectorAll('.legend')[1].querySelector('input').click()")
    assert opened.messages == []
