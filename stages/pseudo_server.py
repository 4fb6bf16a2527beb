"""A server's responses to the students' training prompts, where a profile says `pseudo: {from: api, …}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from distill.judging.answers import lost_fault, to_buy
from distill.judging.budget import estimate
from distill.judging.chat import CUT
from distill.judging.purchases import read_purchases
from distill.judging.settings import ApiPseudoSettings
from distill.judging.teacher import read_response, response_request
from distill.project.errors import DistillError
from distill.prompting.prompts import encode, render
from distill.text.examples import Example
from stages.experiment import Experiment
from stages.judge_client import get_answers

_REASONS_SHOWN = 5


def responses_of_server(
    experiment: Experiment, settings: ApiPseudoSettings, pairs: Sequence[tuple[Example, int]]
) -> tuple[pa.Table, dict[str, int]]:
    """The rows of pseudo.parquet for (prompt, sample) pairs, and why others have none: reason → count.

    Raises: DistillError when the budget ends first, or more than a few prompts got no reply: students of half a
    teacher would pass for students of a whole.
    """
    columns = ["instruction", "input"]
    rows = pq.read_table(experiment.data / "train.parquet", columns=columns).to_pylist()
    asked = [response_request(settings, **rows[example.index], sample=sample) for example, sample in pairs]
    accept = partial(read_response, thinking=settings.thinking)
    if settings.budget.dry_run:
        missing = to_buy(asked, read_purchases(), accept, settings.attempts)
        raise DistillError(
            f"dry run: still to buy are {estimate(settings.budget, missing)}; "
            "set recipe.pseudo.budget.dry_run: false to buy them"
        )
    found = get_answers(
        f"teacher of {experiment.family}",
        experiment.name,
        asked,
        accept,
        settings,
        settings.budget,
        settings.server,
    )
    reasons = Counter(answer.unanswered for r in asked if (answer := found[r.key]).reply is None)
    unanswered = Counter(reason.split(":")[0] for reason in reasons.elements())
    if unanswered["budget"]:
        raise DistillError(
            f"the budget of recipe.pseudo is used up with {unanswered['budget']} of {len(asked)} responses still to "
            "buy; those bought are kept: raise it and run the same command to continue"
        )
    if lost := lost_fault(reasons, len(asked)):
        raise DistillError(f"{experiment.name}: {lost}")
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        print(f"{experiment.name}: {count} of {len(asked)} prompts without a response, {reason}")
    answered = [(*pair, reply) for pair, r in zip(pairs, asked, strict=True) if (reply := found[r.key].reply)]
    if not answered:
        raise DistillError(
            f"no reply of {settings.model} can be learned from, so there is nothing to learn; most for this reason: "
            f"{reasons.most_common(1)[0][0]}; correct recipe.pseudo, or take another model"
        )
    texts = [accept(reply) for _, _, reply in answered]
    tokenizer = experiment.tokenizer()
    prompts = [render(experiment.prompt, **rows[example.index]) for example, _, _ in answered]
    encoded = encode(tokenizer, experiment.prompt, prompts, texts)
    # A reply cut by the server did not end there: the student must not learn that it does.
    response_ids = [
        ids[:-1] if reply.finish == CUT and ids[-1] == tokenizer.eos_token_id else ids
        for (_, ids), (_, _, reply) in zip(encoded, answered, strict=True)
    ]
    table = pa.table(
        {
            "sample": pa.array([sample for _, sample, _ in answered], pa.int32()),
            "prompt_ids": pa.array([example.prompt_ids for example, _, _ in answered], pa.list_(pa.int32())),
            "response_ids": pa.array(response_ids, pa.list_(pa.int32())),
            "output": texts,
        }
    )
    return table, dict(unanswered)
