"""The sweep of learning rates: which runs it asks for, and which of those it kept still count."""

from __future__ import annotations

import pytest

from benchmarks import learning_rates
from benchmarks.learning_rates import Found, draw, missing, of_method, section, shipped_rate

METHOD = "kd"
SHIPPED = shipped_rate(METHOD)


def ran(**scores: float) -> Found:
    """Runs of `METHOD` at its shipped rate times 1, 2, 4 … or a half, a quarter, by name."""
    factors = {"quarter": 0.25, "half": 0.5, "one": 1, "two": 2, "four": 4}
    return {
        f"{METHOD} {SHIPPED * factors[name]:g}": {"rouge_l": score, "loss": 1.0, "section": section(METHOD)}
        for name, score in scores.items()
    }


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({}, [1, 0.5, 2]),
        (ran(one=40), [0.5, 2]),
        (ran(half=39, one=40, two=39), []),
        (ran(half=39, one=40, two=41), [4]),
        (ran(half=41, one=40, two=41.5, four=41), []),
        (ran(half=41, one=40, two=39), [0.25]),
    ],
)
def test_a_rate_is_climbed_until_both_neighbours_are_worse(found: Found, wanted: list[float]) -> None:
    assert missing(found, METHOD) == [SHIPPED * factor for factor in wanted]


def test_a_run_with_another_recipe_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran(one=40)
    assert of_method(found, METHOD) == {SHIPPED: 40}
    monkeypatch.setattr(learning_rates, "section", lambda _: {"epochs": 1})
    assert of_method(found, METHOD) == {}


def test_the_best_of_a_row_is_bold() -> None:
    table = draw(ran(half=39, one=40, two=38)).splitlines()
    assert table[0] == f"| method | {SHIPPED / 2:g} | {SHIPPED:g} | {SHIPPED * 2:g} |"
    assert table[2] == "| kd | 39.0 (1.00) | **40.0 (1.00)** | 38.0 (1.00) |"


def test_a_variant_has_a_section_of_its_own() -> None:
    assert section("kd, twice the epochs")["epochs"] == 2 * section("kd")["epochs"]
