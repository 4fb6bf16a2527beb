"""Asking the judge about made-up pairs: what the tests of its client share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from distill.judging.answers import Answer
from distill.judging.chat import ChatRequest, chat_request
from distill.judging.prompt import SCORES_SCHEMA, fill, read_template
from distill.judging.scores import read_scores
from distill.judging.settings import BudgetSettings, ProtocolSettings, ServerSettings
from stages.judge_client import get_answers

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = read_template(ROOT / "judge/prompt.txt")
KEY = "sk-test-0123456789abcdef"


class Server(Protocol):
    """What has an address."""

    url: str


def protocol(server: Server, **settings: Any) -> ProtocolSettings:
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
