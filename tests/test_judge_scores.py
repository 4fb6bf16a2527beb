"""Two scores out of whatever a judge wrote, and the metric made of them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from distill.judging import prompt, summary
from distill.judging.chat import Reply, UnusableReplyError
from distill.judging.scores import read_scores
from distill.project.errors import SettingsError


def reply(text: str, refusal: str | None = None, finish: str = "stop") -> Reply:
    return Reply(text, refusal, finish, "judge", 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        '{"first": 8, "second": 7, "reason": "12 words"}',
        '{"reason": "1 and 2", "second": 7, "first": 8}',
        'Here it is:\n```json\n{"first": 8, "second": 7}\n```\nGlad to help 10 times.',
        '{"first": "8", "second": "7/10"}',
        '{"answer_1": {"score": 8, "why": "9 words"}, "answer_2": {"score": 7}}',
        '{"scores": [8, 7]}',
        "[8, 7]",
        '{"first": 8, "second": 7, "reason": "cut off in the mid',
        "8 7",
        "8, 7\nThe first is better by 1.",
        "8.0 7.0",
        "**8 7**",
        "Scores: 8 7",
        "8/10, 7/10",
        "\n\n8 7\n\n1. Answer 1 is good.",
        "Answer 1: 8\nAnswer 2: 7",
        "**Answer 1:** 8/10, quite good. **Answer 2:** 7/10.",
        "Assistant A: 8; Assistant B: 7",
        "<think>First I thought 3 4.\n5 6</think>\n8 7",
        '<think>{"first": 1, "second": 1}</think>{"first": 8, "second": 7}',
    ],
)
def test_scores_are_read_however_they_are_written(text: str) -> None:
    scores = read_scores(reply(text))
    assert (scores.first, scores.second) == (8, 7)


def test_a_number_at_a_cut_end_is_not_trusted() -> None:
    with pytest.raises(UnusableReplyError, match="1 score and not 2"):
        read_scores(reply("Answer 1: 8\nAnswer 2: 1", finish="length"))
    assert read_scores(reply('{"first": 8, "second": 10, "reason": "in 19', finish="length")).second == 10


def test_half_points_and_the_reason_are_kept() -> None:
    scores = read_scores(reply('{"first": 8.5, "second": 1, "reason": "So."}'))
    assert (scores.first, scores.second, scores.reason) == (8.5, 1, "So.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("I like the first one.", "no scores"),
        ("The second, of the 2 answers, is better in 10 ways.", "no scores"),
        ("{}", "no scores"),
        ('{"first": null, "second": true}', "no scores"),
        ('{"first": 8}', "1 score and not 2"),
        ("8", "1 score and not 2"),
        ("8 7 6", "3 scores and not 2"),
        ('{"first": [8, 9], "second": 7}', "3 scores and not 2"),
        ('{"first": 8, "second": 1', "no scores"),  # perhaps a 10 that was cut
        ("0 5", "score 0 is not within 1 to 10"),
        ("11 5", "score 11 is not within"),
        ("-3 5", "score -3 is not within"),
        ('{"first": NaN, "second": 5}', "is not within"),
        ('{"first": 1e400, "second": 5}', "score inf is not within"),
        ('{"first": ' + "9" * 400 + ', "second": 5}', "score inf is not within"),
        ("[" * 5000, "no scores"),
    ],
)
def test_what_is_not_two_scores_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnusableReplyError, match=said) as caught:
        read_scores(reply(text))
    assert caught.value.again
    assert str(caught.value).startswith("reply: ")


def test_refusals_are_not_asked_again() -> None:
    for refused in (reply("", refusal="I must not."), reply("8 7", finish="content_filter")):
        with pytest.raises(UnusableReplyError, match="refusal: ") as caught:
            read_scores(refused)
        assert not caught.value.again


# --- the prompt ---------------------------------------------------------------------------------------


def test_the_prompt_takes_texts_as_they_are() -> None:
    template = prompt.read_template(Path(__file__).resolve().parents[1] / "judge/prompt.txt")
    filled = prompt.fill(template, "Q {first} \\1 {", "A {second}", '{"first": 10}')
    assert "Q {first} \\1 {" in filled
    assert "<answer_1>\nA {second}\n</answer_1>" in filled
    assert '<answer_2>\n{"first": 10}\n</answer_2>' in filled
    assert '{"first": <score' in filled


def test_a_prompt_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("{question} {first}")
    with pytest.raises(SettingsError, match=r"lacks \{second\}"):
        prompt.read_template(tmp_path / "mine.txt")
    with pytest.raises(SettingsError, match="does not exist"):
        prompt.read_template(tmp_path / "other.txt")


# --- the metric ---------------------------------------------------------------------------------------


def row(
    identity: int, seed: int, response: float | None, reference: float | None, why: str | None = None
) -> dict[str, Any]:
    return {"id": identity, "seed": seed, "response": response, "reference": reference, "unjudged": why}


def test_the_metric_is_the_ratio_of_sums_for_each_seed() -> None:
    rows = [row(0, 10, 4, 8), row(1, 10, 6, 10), row(0, 20, 8, 8), row(1, 20, 1, 10)]
    found = summary.summarise(rows, seed=0)
    assert found["per_seed"] == [round(100 * 10 / 18, 4), 50.0]
    assert found["mean"] == pytest.approx((100 * 10 / 18 + 50) / 2, abs=1e-4)
    assert found["std"] == pytest.approx(math.dist([100 * 10 / 18], [50]) / math.sqrt(2), abs=1e-4)
    assert (found["judged"], found["pairs"], found["reasons"]) == (4, 4, {})
    low, high = found["ci95"]
    assert low <= found["mean"] <= high


def test_unjudged_pairs_are_in_neither_sum() -> None:
    rows = [row(0, 10, 5, 10), row(1, 10, None, None, "refusal: no"), row(2, 10, None, None, "reply: 3 scores")]
    found = summary.summarise(rows, seed=0)
    assert (found["mean"], found["judged"], found["pairs"]) == (50.0, 1, 3)
    assert found["reasons"] == {"refusal": 1, "reply": 1}
    assert summary.shown({"judge": found}) == "50.0 (1 of 3)"


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0, 10, None, None, "refusal: no")],
        [row(0, 10, 5, 10), row(1, 10, None, None, "budget: max_calls 1 is reached")],
        [row(0, 10, 5, 10), row(0, 20, None, None, "server: down")],  # a seed without any verdict
    ],
)
def test_no_score_is_made_up(rows: list[dict[str, Any]]) -> None:
    found = summary.summarise(rows, seed=0)
    assert set(found) == {"judged", "pairs", "reasons"}
    assert summary.shown({"judge": found}) == summary.shown({}) == "not judged"


def test_few_pairs_without_a_reply_leave_a_score_and_many_none() -> None:
    for lost, scored in ((2, True), (3, False)):
        rows = [row(i, 10, 4, 8) for i in range(40 - lost)]
        rows += [row(40 + i, 10, None, None, f"rejected: status 400: too long by {i}") for i in range(lost)]
        assert ("mean" in summary.summarise(rows, seed=0)) is scored


def test_the_interval_covers_what_it_should() -> None:
    """95 % of intervals hold the ratio of the means that the scores were drawn with, within what 40 trials tell."""
    generator, held = random.Random(0), 0
    for trial in range(40):
        rows = [row(i, 10, generator.uniform(3, 9), generator.uniform(7, 9)) for i in range(60)]
        low, high = summary.summarise(rows, seed=trial)["ci95"]
        held += low <= 75 <= high
    assert held >= 34
