"""Buying replies over real HTTP on loopback: every fault, the money, the interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from distill.judging.buying import Answer
from distill.judging.chat import ChatRequest, chat_request, retry_after
from distill.judging.prompt import SCORES_SCHEMA, fill, read_template
from distill.judging.purchases import open_purchases, read_purchases
from distill.judging.scores import read_scores
from distill.judging.settings import BudgetSettings, ProtocolSettings, ServerSettings
from distill.project.errors import DataError, DistillError
from stages.judge_client import get_answers
from tests.chat_server import (
    Action,
    ChatServer,
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

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = read_template(ROOT / "judge/prompt.txt")
KEY = "sk-test-0123456789abcdef"
PRICED = BudgetSettings(input_price=10.0, output_price=100.0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def protocol(server: ChatServer, **settings: Any) -> ProtocolSettings:
    return ProtocolSettings.model_validate({"model": "judge-1", "base_url": server.url, "max_tokens": 50, **settings})


def quick(**settings: Any) -> ServerSettings:
    return ServerSettings.model_validate({"concurrency": 1, "timeout": 5, "first_wait": 0.01, **settings})


def questions(protocol: ProtocolSettings, worths: Iterable[int]) -> list[ChatRequest]:
    """Pairs whose first answer is worth so much, and whose second is worth 5."""
    schema = SCORES_SCHEMA if protocol.structured else None
    return [
        chat_request(
            protocol,
            fill(TEMPLATE, "What?", f"worth {worth} {number}", "worth 5"),
            temperature=protocol.temperature,
            response_format=schema,
        )
        for number, worth in enumerate(worths)
    ]


def ask(
    protocol: ProtocolSettings,
    worths: Iterable[int] = (3,),
    budget: BudgetSettings | None = None,
    server: ServerSettings | None = None,
) -> list[Answer]:
    requests = questions(protocol, worths)
    found = get_answers("judge", "cell", requests, read_scores, protocol, budget or BudgetSettings(), server or quick())
    return [found[request.key] for request in requests if request.key in found]


def scores(answer: Answer) -> tuple[float, float]:
    assert answer.reply is not None, answer.unanswered
    found = read_scores(answer.reply)
    return found.first, found.second


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
        began = time.monotonic()
        ask(protocol(server), [5] * 20, server=quick(concurrency=5))
        assert time.monotonic() - began < 1.8  # one after another: 2 s and more
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
    began, later = server.times[0], [moment - server.times[0] for moment in server.times[2:]]
    assert server.times[1] - began < 0.9  # was under way already
    assert len(server.requests) == 5
    assert min(later) >= 0.99, later


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
    assert 0.07 < gaps[0] < gaps[1] < gaps[2]


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
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_no_request_survives_ends_the_run_at_once(fault: Status, said: str) -> None:
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


# --- money --------------------------------------------------------------------------------------------


def test_nothing_is_bought_twice() -> None:
    with serving() as server:
        first = ask(protocol(server), [3, 4, 3, 8])
        # The number in the text tells pairs apart: these are four; then the same four and one more.
        assert ask(protocol(server), [3, 4, 3, 8, 9])[:4] == first
        assert len(server.requests) == 5
        ask(protocol(server, temperature=0.6), [3])
        ask(protocol(server, model="judge-2"), [3])
        ask(protocol(server, max_tokens=60), [3])
        ask(protocol(server, structured=False), [3])
        assert len(server.requests) == 9


def test_equal_requests_are_one_purchase() -> None:
    with serving() as server:
        request = questions(protocol(server), [3])[0]
        args = (read_scores, protocol(server), BudgetSettings(), quick(concurrency=4))
        assert len(get_answers("judge", "cell", [request] * 5, *args)) == 1
        assert len(server.requests) == 1


def test_a_refusal_is_not_paid_for_twice_but_more_attempts_are_taken_up() -> None:
    with serving(lambda body, number: Say(None, refusal="no") if number == 0 else Say("?")) as server:
        ask(protocol(server, attempts=2), [3, 4])
        assert len(server.requests) == 3
        ask(protocol(server, attempts=2), [3, 4])
        assert len(server.requests) == 3
        ask(protocol(server, attempts=3), [3, 4])
        assert len(server.requests) == 4


@pytest.mark.parametrize("concurrency", [1, 4])
def test_max_calls_stops_and_a_higher_one_goes_on(concurrency: int) -> None:
    script = after(Status(500), Say("?"))  # turned away: free; unusable: paid
    with serving(script) as server:
        many = quick(concurrency=concurrency)
        found = ask(protocol(server), [5] * 10, BudgetSettings(max_calls=4), many)
        assert server.completed == 4
        assert sum(answer.reply is not None for answer in found) == 3
        assert {a.unanswered for a in found if a.reply is None} == {"budget: max_calls 4 is reached"}
        ask(protocol(server), [5] * 10, BudgetSettings(max_calls=4), many)
        assert server.completed == 4
        found = ask(protocol(server), [5] * 10, BudgetSettings(max_calls=100), many)
        assert all(scores(answer) == (6, 5) for answer in found)
        assert server.completed == 11


def test_max_cost_is_never_passed() -> None:
    costly = PRICED.model_copy(update={"max_cost": 0.05})
    with serving() as server:
        found = ask(protocol(server), [5] * 40, costly, quick(concurrency=8))
    bought = read_purchases().all
    spent = sum(purchase.cost or 0.0 for purchase in bought)
    # 100 tokens in and 10 out: 0.002 US$ a call; one call may take up to 50 out.
    assert [purchase.cost for purchase in bought] == [pytest.approx(0.002)] * len(bought)
    assert 0.03 < spent <= 0.05
    assert sum(a.unanswered == "budget: max_cost 0.05 US$ is reached" for a in found) == 40 - len(bought)


def test_lost_calls_count_as_bought_at_the_most_they_can_cost() -> None:
    with serving(after(Drop(), Hang(0.6))) as server:
        ask(protocol(server), [3], PRICED, quick(timeout=0.4))
    lost = [purchase for purchase in read_purchases().all if purchase.reply is None]
    assert [purchase.lost for purchase in lost] == ["connection lost", "timed out"]
    assert all(purchase.tokens_out == 50 and (purchase.cost or 0) > 0.005 for purchase in lost)


def test_each_purpose_has_its_own_budget() -> None:
    with serving() as server:
        one = BudgetSettings(max_calls=1)
        for purpose, worth in (("judge", 3), ("teacher of toy", 4)):
            request = questions(protocol(server), [worth])
            found = get_answers(purpose, "cell", request, read_scores, protocol(server), one, quick())
            assert scores(found[request[0].key]) == (worth + 1, 5)


def test_tokens_are_estimated_where_the_server_does_not_tell() -> None:
    with serving(lambda body, number: Say("4 5", usage=None)) as server:
        ask(protocol(server), [3])
    (purchase,) = read_purchases().all
    assert 200 < purchase.tokens_in < 700
    assert 1 <= purchase.tokens_out < 20


def test_a_dry_run_asks_nothing_and_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        ask(protocol(server), [3])
        monkeypatch.delenv("OPENAI_API_KEY")
        found = ask(protocol(server), [3, 4], BudgetSettings(dry_run=True))
        assert scores(found[0]) == (4, 5)
        assert found[1].unanswered == "budget: dry run"
        assert len(server.requests) == 1


def test_without_a_key_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with serving() as server:
        with pytest.raises(DistillError, match=r"no key; export OPENAI_API_KEY"):
            ask(protocol(server))
        assert server.requests == []


def test_the_key_is_written_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(after(Status(400, error={"message": f"bad {KEY}"}), Status(400), Say("?"))) as server:
        ask(protocol(server), [3, 4, 5])
    assert KEY not in "".join(capfd.readouterr())
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


# --- what is kept -------------------------------------------------------------------------------------


def test_a_torn_line_is_dropped_and_a_damaged_one_is_named() -> None:
    with serving() as server:
        ask(protocol(server), [3, 4])
        path = Path(".judge/replies.jsonl")
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert len(read_purchases().all) == 1
        ask(protocol(server), [3, 4])
        assert len(server.requests) == 3
        # The order of the lines is that of arrival, so both are whole again.
        assert len(read_purchases().all) == 2
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(DataError, match=r"replies.jsonl:1 is damaged; delete that line"):
        read_purchases()


def test_a_full_disk_stops_the_buying(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with serving() as server:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            ask(protocol(server), [5] * 10)
        assert len(server.requests) == 1


BUY = """
import sys
from distill.project.errors import run_stage
from tests.test_judge_client import ask, protocol, quick
from tests.chat_server import ChatServer

class Server:
    url = sys.argv[1]

run_stage(lambda: print(len(ask(protocol(Server), [5] * int(sys.argv[2]), server=quick(concurrency=4)))))
"""


def start(url: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUY, url, str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def slow(body: dict[str, Any], number: int) -> Action:
    time.sleep(0.2)
    return Say(json.dumps({"first": 5, "second": 5}))


def wait_for(server: ChatServer, count: int) -> None:
    began = time.monotonic()
    while len(server.requests) < count:
        assert time.monotonic() - began < 60, "the process never asked"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_every_call_under_way(number: int) -> None:
    with serving(slow) as server:
        process = start(server.url, 40)
        wait_for(server, 6)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, ""), err
        assert "call(s) under way" in err
        assert "Traceback" not in err
        asked = len(server.requests)
        assert asked < 20
        assert len(read_purchases().all) == server.completed == asked
        server.script = rate
        assert len(ask(protocol(server), [5] * 40, server=quick(concurrency=4))) == 40
        assert len(server.requests) == 40


def test_a_killed_run_loses_only_what_was_under_way() -> None:
    with serving(slow) as server:
        process = start(server.url, 40)
        wait_for(server, 9)
        process.kill()
        process.wait()
        kept = len(read_purchases().all)
        assert kept >= 4
        time.sleep(0.4)
        asked = len(server.requests)
        assert asked - kept <= 4
        server.script = rate
        ask(protocol(server), [5] * 40)
        assert len(server.requests) == asked + 40 - kept


def test_processes_wait_for_each_other_and_never_buy_the_same() -> None:
    with serving() as server:
        with open_purchases():
            processes = [start(server.url, 12) for _ in range(2)]
            waiting = [process.stderr.readline() for process in processes if process.stderr]
            assert server.requests == []
        results = [process.communicate(timeout=60)[0].strip() for process in processes]
        assert (results, len(server.requests)) == (["12", "12"], 12)
    assert all(line.startswith("waiting: another process is buying replies") for line in waiting), waiting
