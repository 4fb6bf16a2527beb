"""What is bought from a server on loopback: never twice, never beyond the budget, kept through any end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distill.judging.purchases import open_purchases, read_purchases
from distill.judging.scores import read_scores
from distill.judging.settings import BudgetSettings
from distill.project.errors import DataError, DistillError
from stages.judge_client import get_answers
from tests.chat_server import (
    Action,
    ChatServer,
    Drop,
    Hang,
    Say,
    Status,
    after,
    rate,
    serving,
)
from tests.judge_calls import KEY, ROOT, ask, protocol, questions, quick, scores

PRICED = BudgetSettings(input_price=10.0, output_price=100.0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


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


def test_a_kept_reply_gives_no_money_back() -> None:
    Path(".judge").mkdir()
    old = {"key": "k", "purpose": "judge", "cost": -99.0, "tokens_in": -9, "tokens_out": 1, "reply": None, "lost": ""}
    Path(".judge/replies.jsonl").write_text(json.dumps(old) + "\n")
    with serving() as server:
        found = ask(protocol(server), [5] * 9, PRICED.model_copy(update={"max_cost": 0.01}))
    assert [answer.unanswered for answer in found if answer.reply is None] != []


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
from tests.judge_calls import ask, protocol, quick

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
