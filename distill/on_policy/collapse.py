"""Collapse: a run whose numbers are finite and whose student gets worse, found in its own curves.

Three symptoms, each against the first collection, which the untrained start wrote:

    reverse KL   more than twice the start's, and more than 1 nat a token above it
    length       responses under a quarter of the start's with the reverse KL no lower than at the start, or under
                 0.6 of them with the reverse KL over 1.2 of it
    entropy      of the student's distributions, under 3 % of the start's

A symptom must show in three collections in a row: small students were seen to recover from two. Healthy runs of the
toy profile stay far from all three (reverse KL at most 1.1 of the start's, length at least 0.8, entropy at least
0.25); there, leaving out length norm without whitening halves the answers at 1.4 of the reverse KL, leaving out the
single step triples it. A student that has only pretraining may rightly lose most of its length, since it never ended
its responses; it comes nearer to its teacher by that, hence the second half of that symptom. Nothing here changes a
run that shows none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from distill.on_policy.rollouts import Collection
from distill.project.errors import DivergedError
from distill.runs.curves import Curves

if TYPE_CHECKING:
    from distill.on_policy.objective import OwnSampleObjective
    from distill.on_policy.settings import OnPolicySettings

KL_TIMES, KL_NATS = 2.0, 1.0
SHORTEST, SHORTER, FARTHER = 0.25, 0.6, 1.2
LEAST_ENTROPY = 0.03
IN_A_ROW = 3

OnCollapse = Callable[[DivergedError], None]


def stop(fault: DivergedError) -> None:
    """End the run; the other choice is a function that returns."""
    raise fault


def symptom(curves: Curves, steps_per_collection: int) -> str | None:
    """What has collapsed, judged when a new collection has entered `curves`; None in a healthy run."""
    kl, length = (_values(curves, name) for name in ("reverse_kl", "response_tokens"))
    entropy = _entropies(curves, steps_per_collection)
    # The larger bound counts: twice a tiny start is mere noise, and 1 nat above a large one is too.
    exploded = [value > max(KL_TIMES * kl[0], kl[0] + KL_NATS) for value in kl]
    shrunk = [
        (now < SHORTEST * length[0] and away >= kl[0]) or (now < SHORTER * length[0] and away > FARTHER * kl[0])
        for now, away in zip(length, kl, strict=True)
    ]
    # A share of the start's: vocabulary and data set the level. Before the first mean nothing is compared.
    frozen = [value < LEAST_ENTROPY * entropy[0] for value in entropy]
    if _lasts(exploded):
        return f"the reverse KL exploded, from {kl[0]:.3g} to {kl[-1]:.3g} nats a token"
    if _lasts(shrunk):
        return f"the responses collapsed, from {length[0]:.3g} to {length[-1]:.3g} tokens"
    if _lasts(frozen):
        return f"the student's entropy collapsed, from {entropy[0]:.3g} to {entropy[-1]:.3g} nats a token"
    return None


def remedy(settings: OnPolicySettings, objective: OwnSampleObjective) -> str:
    """What to change, as the end of a sentence: the formula's own remedies come first."""
    rate = f"lower `learning_rate` (now {settings.learning_rate:g}) or raise `warmup_steps`"
    return ", ".join([*objective.remedies(settings), rate])


def rows(collection: Collection, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Some rollouts of a collection with all that was known of each token, as JSON-like dictionaries."""
    found = []
    for index in chosen:
        response = collection.responses[index]
        count = len(response.ids)
        values = {
            "logprobs": response.logprobs,
            "teacher_logprobs": response.teacher_logprobs,
            "behaviour_logprobs": response.behaviour_logprobs,
            "reverse_kl": response.kl,
            # The grid is padded to the limit; other values end with the response.
            "advantages": collection.advantages[index, :count],
        }
        known: dict[str, Any] = {"prompt_ids": collection.prompts[index], "response_ids": response.ids}
        known["truncated"] = response.truncated
        found.append(known | {name: value.tolist() for name, value in values.items()})
    return found


def _values(curves: Curves, name: str) -> list[float]:
    return [value for _, value in curves.points.get(name, [])]


def _entropies(curves: Curves, steps_per_collection: int) -> list[float]:
    """Mean entropy in the updates on each collection that is done with; empty before the first is."""
    points = _values(curves, "entropy")
    # A part of a collection holds only its early updates, no fair mean beside those of whole ones.
    whole = len(points) - len(points) % steps_per_collection
    return [fmean(points[start : start + steps_per_collection]) for start in range(0, whole, steps_per_collection)]


def _lasts(signs: Sequence[bool]) -> bool:
    # The first is the start, judged by itself; the signs that count come after it, hence one more.
    return len(signs) > IN_A_ROW and all(signs[-IN_A_ROW:])
