"""The last words of `commands.adopt`: what the family takes here, and a size that fits the time one has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from commands import adopt, adopt_estimate
from commands.check import found_faults
from commands.doctor_outlook import Outlook
from distill.preflight.workload import Units
from distill.project.settings import read_yaml
from tests.test_pipeline_adopt import SENTENCE, made, root, run  # noqa: F401 - fixtures
from tests.tiny_pipeline import Stage


def priced(trained: float) -> object:
    """In place of the measurement: a machine that takes so many seconds to train a token, and none for the rest."""

    def measured(found: Outlook, *_: object) -> Outlook:
        prices = dict.fromkeys(found.prices, Units(trained=trained))
        return replace(found, prices=prices, imports=0.01)

    return measured


def test_the_cost_is_told_and_a_size_offered(
    run: Stage,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(adopt_estimate, "measured_here", priced(0.04))
    run(adopt.main, *SENTENCE)
    said = capsys.readouterr().out.splitlines()
    (cost,) = (line for line in said if line.startswith("Here it takes about "))
    assert " h (" in cost and "memory" in cost and cost.endswith("of disk.")
    assert "To fit 60 min, change these lines (`--hours 1` writes them):" in said
    assert said[-1] == "  make repro"


@pytest.mark.parametrize("valid", [(), ("--valid", "my.jsonl")], ids=["rows", "a file"])
def test_hours_write_a_size_that_is_sound(
    valid: tuple[str, ...],
    root: Path,  # noqa: F811
    run: Stage,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(adopt_estimate, "measured_here", priced(0.02))
    run(adopt.main, *SENTENCE, "--hours", "0.5", *valid)
    said = capsys.readouterr().out
    assert "Written so that it fits 30 min:" in said
    text = (root / "profiles/mine.yaml").read_text()
    assert text.count("    # to fit 30 min\n") == 2 and "# all" not in text
    recipe = read_yaml(root / "profiles/mine.yaml")["recipe"]
    assert recipe["note"].endswith("not swept; rows, epochs and steps cut to fit 30 min")
    data = recipe["data"]
    checked = data["valid"]["limit"] if valid else data["valid_rows"]
    assert checked == (60 if valid else 5) and f"{'valid.limit' if valid else 'valid_rows'}: {checked};" in said
    own = recipe["students"]["mine-student"]
    assert own["sft"]["epochs"] == own["kd"]["epochs"] == 3 and recipe["teacher"]["sft"]["epochs"] == 3
    assert own["minillm"]["rollouts"] % own["minillm"]["minibatch"] == 0
    assert recipe["data"]["rows"]["student"] == recipe["data"]["rows"]["teacher"] >= 32
    assert read_yaml(root / "evalsets/mine_test.yaml")["limit"] <= 16
    monkeypatch.chdir(root)
    assert found_faults(everything=False)[0] == []


def test_nothing_that_fits_is_said(
    run: Stage,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(adopt_estimate, "measured_here", priced(1e6))
    run(adopt.main, *SENTENCE)
    assert "No part of it fits 60 min here: take a smaller model or another machine." in capsys.readouterr().out
