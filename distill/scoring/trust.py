"""Whether a comparison may be believed: none is between two models that read no better than one who guesses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.scoring.names import CALIBRATION, EXPOSURE, KL, LENGTHS, LOSS

BOTH_GUESS = "both guess"
"""The verdict where two models' losses on the references are no better than that of guessing."""


def guesses(losses: Mapping[str, Any], model: str) -> bool:
    """Whether a model's mean loss on a set is no better than `guessing`; `losses` is the set's part of the analysis."""
    return not losses["models"][model]["mean"] < losses["guessing"]


def withheld(compared: Mapping[str, Any], losses: Mapping[str, Mapping[str, Any]], a: str, b: str) -> dict[str, Any]:
    """The comparisons of two models, without the verdicts that babble would get.

    What stands on one set is judged by that set; divergence, exposure and calibration by all of them together.
    """
    babble = {name for name, each in losses.items() if guesses(each, a) and guesses(each, b)}
    if not babble:
        return dict(compared)
    found = {name: _without_verdict(each) if name in babble else each for name, each in compared.items()}
    for part in (LOSS, LENGTHS):
        if part in found:
            found[part] = {n: _without_verdict(each) if n in babble else each for n, each in found[part].items()}
    if len(babble) == len(losses):
        found |= {part: _without_verdict(found[part]) for part in (KL, EXPOSURE, CALIBRATION) if part in found}
    return found


def _without_verdict(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    return {name: BOTH_GUESS if name == "verdict" else _without_verdict(each) for name, each in content.items()}
