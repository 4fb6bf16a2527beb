"""Pairs of a model's answer and the reference, their questions to the judge, and one row of verdicts for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.evaluation import answer_sheet
from distill.judging.answers import Answer
from distill.judging.chat import ChatRequest, chat_request, question_of
from distill.judging.prompt import SCORES_SCHEMA, fill
from distill.judging.scores import read_scores
from distill.judging.settings import ProtocolSettings
from distill.project.errors import DataError
from distill.project.files import read_jsonl

Order = Literal["response_first", "reference_first"]


@dataclass(frozen=True)
class JudgedPair:
    """One answer of a model, and the reference answer to the same question."""

    id: int | str
    seed: int
    question: str
    response: str
    reference: str
    """The first, if an example has several."""


def read_pairs(responses: Path, evaluation: Path, protocol: ProtocolSettings) -> list[JudgedPair]:
    """The pairs of the protocol, seed by seed.

    Raises: DataError when rows are missing, extra or of the wrong type, or a seed was never sampled.
    """
    sheet = answer_sheet.read(responses, evaluation)
    questions = [question_of(row["instruction"], row["input"]) for row in read_jsonl(evaluation)]
    seeds = sheet.seeds if protocol.seeds is None else list(protocol.seeds)
    if absent := [str(seed) for seed in seeds if seed not in sheet.seeds]:
        known = ", ".join(map(str, sheet.seeds))
        raise DataError(f"{responses} has no answers for seed {', '.join(absent)}; judge.protocol.seeds may be {known}")
    count = protocol.limit if protocol.limit is not None else len(sheet.ids)
    return [
        JudgedPair(sheet.ids[n], seed, questions[n], sheet.texts[sheet.seeds.index(seed)][n], sheet.references[n][0])
        for seed in seeds
        for n in range(min(count, len(sheet.ids)))
    ]


def requests_of(pair: JudgedPair, template: str, protocol: ProtocolSettings) -> dict[Order, ChatRequest]:
    """The question or the two questions that settle a pair."""
    orders: list[Order] = ["response_first", "reference_first"]
    if protocol.orders != "both":
        orders = [protocol.orders]
    shown = {
        "response_first": (pair.response, pair.reference),
        "reference_first": (pair.reference, pair.response),
    }
    return {
        order: chat_request(
            protocol,
            fill(template, pair.question, *shown[order]),
            temperature=protocol.temperature,
            response_format=SCORES_SCHEMA if protocol.structured else None,
        )
        for order in orders
    }


def verdict_row(pair: JudgedPair, requests: Mapping[Order, ChatRequest], found: Mapping[str, Answer]) -> dict[str, Any]:
    """A row of verdicts/: `{id, seed, response, reference, unjudged, orders}`.

    `response` and `reference` are scores from 1 to 10, means over the orders. Unless every order has a verdict, both
    are null and `unjudged` is the reason: one order alone would favour one place.
    """
    orders, reason = [], None
    for order, request in requests.items():
        answer = found[request.key]
        if answer.reply is None:
            reason = reason or answer.unanswered
            continue
        scores = read_scores(answer.reply)
        response, reference = scores.first, scores.second
        if order == "reference_first":
            response, reference = reference, response
        orders.append({"order": order, "response": response, "reference": reference, "reason": scores.reason})
    judged = reason is None
    return {
        "id": pair.id,
        "seed": pair.seed,
        "response": sum(float(o["response"]) for o in orders) / len(orders) if judged else None,
        "reference": sum(float(o["reference"]) for o in orders) / len(orders) if judged else None,
        "unjudged": reason,
        "orders": orders,
    }
