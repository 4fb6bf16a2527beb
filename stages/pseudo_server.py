"""A server's responses to the students' training prompts, where a profile says `pseudo: {from: api, …}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.prompts import encode, render
from distill.judging.answers import to_buy
from distill.judging.budget import estimate
from distill.judging.purchases import read_purchases
from distill.judging.settings import ApiPseudoSettings
from distill.judging.teacher import CUT, read_response, response_request
from distill.project.errors import DistillError
from distill.text.examples import Example
from stages.experiment import Experiment
from stages.judge_client import get_answers


def responses_of_server(
    experiment: Experiment, settings: ApiPseudoSettings, pairs: Sequence[tuple[Example, int]]
) -> tuple[pa.Table, dict[str, int]]:
    """The rows of pseudo.parquet for (prompt, sample) pairs, and why others have none: reason → count.

    Raises: DistillError when the budget ends first: students of half a teacher would pass for students of a whole.
    """
    columns = ["instruction", "input"]
    rows = pq.read_table(experiment.data / "train.parquet", columns=columns).to_pylist()
    asked = [response_request(settings, **rows[example.index], sample=sample) for example, sample in pairs]
    if settings.budget.dry_run:
        missing = to_buy(asked, read_purchases(), read_response, settings.attempts)
        raise DistillError(
            f"dry run: still to buy are {estimate(settings.budget, missing)}; "
            "set recipe.pseudo.budget.dry_run: false to buy them"
        )
    found = get_answers(
        f"teacher of {experiment.family}",
        experiment.name,
        asked,
        read_response,
        settings,
        settings.budget,
        settings.server,
    )
    unanswered = Counter(a.unanswered.split(":")[0] for r in asked if (a := found[r.key]).reply is None)
    if unanswered["budget"]:
        raise DistillError(
            f"the budget of recipe.pseudo is used up with {unanswered['budget']} of {len(asked)} responses still to "
            "buy; those bought are kept: raise it and run the same command to continue"
        )
    answered = [(*pair, reply) for pair, r in zip(pairs, asked, strict=True) if (reply := found[r.key].reply)]
    if not answered:
        raise DistillError(f"{settings.model} refused every prompt, so there is nothing to learn; take another model")
    texts = [read_response(reply) for _, _, reply in answered]
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
