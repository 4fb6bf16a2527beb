"""Asking a judge over real HTTP on loopback: what is sent, and every fault."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from distill.judging.chat import retry_after
from distill.judging.purchases import read_purchases
from distill.project.errors import DistillError
from tests.chat_server import (
    Action,
    Drop,
    Hang,
    Raw,
    Say,
    Status,
    after,
    answers_in,
    prompt_of,
    rate,
    serving,
)
from tests.judge_calls import KEY, ask, protocol, quick, scores


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# --- what is sent -------------------------------------------------------------------------------------


def test_a_request_holds_what_the_settings_say() -> None:
    with serving() as server:
        assert scores(ask(protocol(server))[0]) == (4, 5)
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge-1", 0.7, 50)
    assert request["response_format"]["json_schema"]["strict"] is True
    assert "worth 3" in prompt_of(request)
    assert server.keys == [f"Bearer {KEY}"]


def test_models_with_other_names_for_things_can_be_asked() -> None:
    with serving() as server:
        ask(protocol(server, token_limit="max_completion_tokens", temperature=None, structured=False))
    (request,) = server.requests
    assert request["max_completion_tokens"] == 50
    assert not {"temperature", "max_tokens", "response_format"} & request.keys()


def test_the_address_comes_from_the_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server, serving() as other:
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        ask(protocol(server))
        assert (len(server.requests), len(other.requests)) == (1, 0)


def test_a_server_without_schemas_is_asked_without_them() -> None:
    def no_schema(body: dict[str, Any], number: int) -> Action:
        return Status(400, error={"message": "unknown response_format"}) if "response_format" in body else Say("4 5")

    with serving(no_schema) as server:
        assert [scores(answer) for answer in ask(protocol(server), [3, 4, 5])] == [(4, 5)] * 3
    assert ["response_format" in request for request in server.requests] == [True, False, False, False]


def test_calls_run_at_once_but_not_more_than_said() -> None:
    def slow(body: dict[str, Any], number: int) -> Action:
        time.sleep(0.1)
        return rate(body, number)

    with serving(slow) as server:
        ask(protocol(server), [5] * 20, server=quick(concurrency=5))
        assert 2 <= server.most_busy <= 5


# --- faults that a retry mends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Status(429),
        Status(500),
        Status(502),
        Status(503),
        Status(408),
        Drop(),
        Hang(1.0),
        Raw("<html>Bad gateway</html>", "text/html"),
        Raw("not JSON"),
        Raw('{"choices": []}'),
        Raw("[]"),
        Say("I think the first is better."),
        Say("8 7 6"),
        Say("11 5"),
        Say(None),
        Say(""),
    ],
    ids=lambda fault: repr(fault)[:40],
)
def test_a_fault_that_passes_costs_a_retry_only(fault: Action) -> None:
    with serving(after(fault, fault)) as server:
        answer = ask(protocol(server), server=quick(timeout=0.5))[0]
    assert scores(answer) == (4, 5)
    assert len(server.requests) == 3


def test_retry_after_holds_back_every_call() -> None:
    script = after(Status(429, {"Retry-After": "1"}))
    with serving(script) as server:
        ask(protocol(server), [3, 4, 5, 6], server=quick(concurrency=2))
    later = [moment - server.times[0] for moment in server.times[2:]]  # two were under way at once
    assert len(server.requests) == 5
    assert min(later) >= 0.99, later


def test_a_narrow_rate_limit_slows_down_but_loses_nothing() -> None:
    taken: list[float] = []

    def one_at_a_time(body: dict[str, Any], number: int) -> Action:
        now = time.monotonic()
        if taken and now - taken[-1] < 0.05:
            return Status(429, {"Retry-After-Ms": "60"})
        taken.append(now)
        return rate(body, number)

    with serving(one_at_a_time) as server:
        found = ask(protocol(server), [5] * 24, server=quick(concurrency=8, retries=2))
        assert [scores(answer) for answer in found] == [(6, 5)] * 24
        assert len(server.requests) > 30  # many were turned away


def test_retry_after_is_read_in_all_its_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "9", "retry-after-ms": "120"}) == 0.12
    assert retry_after({"retry-after": format_datetime(now + timedelta(seconds=7), usegmt=True)}, now) == 7
    assert retry_after({"retry-after": format_datetime(now - timedelta(seconds=7), usegmt=True)}, now) == 0
    assert [retry_after(h) for h in ({}, {"retry-after": "soon"}, {"retry-after": "-1"}, {"retry-after": "nan"})] == [
        None
    ] * 4


def test_pauses_grow() -> None:
    with serving(after(*[Status(500)] * 3)) as server:
        ask(protocol(server), server=quick(first_wait=0.1))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert all(gap >= 0.1 * 2**n * 0.74 for n, gap in enumerate(gaps)), gaps


# --- faults that stay ---------------------------------------------------------------------------------


def only_for(worth: int, fault: Action) -> Any:
    """A fault whenever the answer worth so much is asked about."""
    return lambda body, number: fault if f"worth {worth} " in answers_in(body)[0] else rate(body, number)


@pytest.mark.parametrize(
    ("fault", "reason", "asked"),
    [
        (Status(500), "server: status 500 (3 tries)", 3),
        (Status(429), "server: status 429 (3 tries)", 3),
        (Drop(), "server: connection lost (3 tries)", 3),
        (Hang(0.6), "server: timed out (3 tries)", 3),
        (Raw("oops"), "server: the response is not a chat completion: 'oops' (3 tries)", 3),
        (Status(400, error={"message": "too long"}), "rejected: status 400: ", 2),
        (Say(None, refusal="I would rather not."), "refusal: I would rather not.", 1),
        (Say("", finish="content_filter"), "refusal: the server's content filter", 1),
        (Say("Both are fine."), "reply: no scores in it: 'Both are fine.'", 4),
        (Say("8 7 6"), "reply: 3 scores and not 2", 4),
        (Say("0 7"), "reply: score 0 is not within 1 to 10", 4),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_fault_that_stays_is_recorded_and_is_no_score(fault: Action, reason: str, asked: int) -> None:
    with serving(only_for(4, fault)) as server:
        found = ask(protocol(server, attempts=4), [3, 4, 6], server=quick(retries=2, timeout=0.4))
    assert [scores(found[0]), scores(found[2])] == [(4, 5), (7, 5)]
    assert found[1].reply is None
    assert found[1].unanswered.startswith(reason)
    assert len(server.requests) == 2 + asked


def test_what_never_varies_is_not_asked_again() -> None:
    with serving(only_for(4, Say("8 7 6"))) as server:
        ask(protocol(server, temperature=0), [3, 4])
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(401, error={"message": f"Incorrect API key {KEY}"}), "does not accept the key (401); correct OPENAI"),
        (Status(403), "does not accept the key (403)"),
        (Status(404), "does not know the model `judge-1`"),
        (Status(429, error={"message": "pay", "code": "insufficient_quota"}), "no credit left"),
        (Status(429, {"Retry-After": "3600"}), "asks to wait 3600 s"),
        (Status(402, error={"message": "Insufficient Balance"}), "no credit left (402: Insufficient Balance)"),
        (Raw('{"error": {"code": 402, "message": "more credits, please"}}'), "no credit left (402: more credits"),
        (Status(308, {"Location": "https://elsewhere/v1"}), "sends requests on to https://elsewhere/v1"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_no_request_survives_ends_the_run_at_once(fault: Action, said: str) -> None:
    script = after(Say('{"first": 4, "second": 5}'), then=lambda body, number: fault)
    with serving(script) as server:
        with pytest.raises(DistillError) as caught:
            ask(protocol(server), [3] * 30)
        assert said in str(caught.value)
        assert KEY not in str(caught.value)
        assert len(server.requests) == 2
    assert len(read_purchases().all) == 1


def test_a_server_that_is_down_is_not_asked_for_ever() -> None:
    with serving(lambda body, number: Status(503)) as server:
        with pytest.raises(DistillError, match=r"no reply came to 4 request.* run the same command to continue"):
            ask(protocol(server), range(40), server=quick(retries=1, give_up_after=4))
        assert len(server.requests) == 8
    with pytest.raises(DistillError, match="no connection to"):
        ask(protocol(server), [3, 4], server=quick(retries=1))
    assert read_purchases().all == []


def test_settings_that_a_server_refuses_end_the_run() -> None:
    script = after(then=lambda body, number: Status(400, error={"message": f"no max_tokens, {KEY}"}))
    with serving(script) as server, pytest.raises(DistillError, match=r"no max_tokens, \[key\]"):
        ask(protocol(server), [3, 4])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(400, error={"message": "Access denied, account in arrears", "code": "Arrearage"}), "arrears"),
        (Status(451, error={"message": "not in your country"}), "not in your country"),
        (Status(422, error={"detail": "no such field"}), "no such field"),
    ],
)
def test_rejections_in_a_row_end_the_run_though_replies_came(fault: Status, said: str) -> None:
    script = after(*[Say("4 5")] * 9, then=lambda body, number: fault)
    with serving(script) as server:
        with pytest.raises(DistillError, match=rf"no reply came to 10 request.*{said}"):
            ask(protocol(server), range(40))
        assert len(server.requests) == 9 + 2 * 10  # each is also asked without the schema
    assert len(read_purchases().all) == 9


def test_useless_replies_in_a_row_end_the_run_and_are_kept() -> None:
    with serving(lambda body, number: Say("Both are nice.")) as server:
        with pytest.raises(DistillError, match=r"10 replies in a row are of no use.*no scores in it: 'Both are nice.'"):
            ask(protocol(server), range(40))
        assert len(server.requests) == 10
        server.script = lambda body, number: Say('{"first": 5, "second": 5, "reason": "Even."}')
        assert len(ask(protocol(server), range(40))) == 40
        # Three of the forty had used up their attempts.
        assert len(server.requests) == 10 + 37
