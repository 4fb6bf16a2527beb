"""The summary of a judge's verdicts on one model and one evaluation set.

The paper's metric: the sum of the model's scores over the sum of the references' scores × 100, for each sampling
seed, then the mean over seeds. 100 means: as good as the references, in the judge's eyes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.judging.answers import lost_fault
from distill.project.files import read_json
from distill.scoring.spread import with_spread
from distill.scoring.statistics import FEWEST_PROMPTS

NOT_JUDGED = "not judged"

_DIGITS = 4
_DRAWS = 5_000
_LEVEL = 0.95
_NOT_ASKED = "budget"


def summary_path(root: Path, who: str, what: str, name: str) -> Path:
    """The summary's path for one cell: among the scores, so that results/ finds it with them."""
    return root / "scores" / who / what / f"{name}.judge.json"


def summarise(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """The summary of verdict rows: `{mean, std, per_seed, ci95, judged, pairs, reasons}`; of one seed no `std`.

    The score (the first four) is left out when no pair is judged, or when pairs were never asked about because the
    budget ended, or the server gave no reply to more than a few: the rest would be a sample nobody chose. Pairs
    without a usable verdict are left out of both sums and counted by `reasons`. `seed` draws the bootstrap over
    examples and seeds.
    """
    whole = Counter(str(row["unjudged"]) for row in rows if row["unjudged"] is not None)
    reasons = Counter(reason.split(":")[0] for reason in whole.elements())
    counts = {"judged": len(rows) - reasons.total(), "pairs": len(rows), "reasons": dict(reasons)}
    seeds, ids = sorted({row["seed"] for row in rows}), list(dict.fromkeys(row["id"] for row in rows))
    sums = np.zeros((2, len(seeds), len(ids)))  # model, reference; 0 where unjudged
    column = {identity: number for number, identity in enumerate(ids)}
    for row in rows:
        if row["unjudged"] is None:
            sums[:, seeds.index(row["seed"]), column[row["id"]]] = row["response"], row["reference"]
    if _NOT_ASKED in reasons or lost_fault(whole, len(rows)) or not sums[1].sum(axis=1).all() or not rows:
        return counts
    per_seed = 100 * sums[0].sum(axis=1) / sums[1].sum(axis=1)
    return {
        "mean": round(float(per_seed.mean()), _DIGITS),
        **({"std": round(float(per_seed.std(ddof=1)), _DIGITS)} if len(seeds) > 1 else {}),
        "per_seed": [round(float(score), _DIGITS) for score in per_seed],
        "ci95": [round(bound, _DIGITS) for bound in _interval(sums, seed)],
        **({"prompts": len(ids)} if len(ids) < FEWEST_PROMPTS else {}),
        **counts,
    }


def _interval(sums: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the score over examples and, independently, over seeds."""
    _, seeds, examples = sums.shape
    generator = np.random.default_rng(seed)
    by_example = generator.multinomial(examples, np.full(examples, 1 / examples), size=_DRAWS)
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=_DRAWS)
    model, reference = by_example @ sums[0].T, by_example @ sums[1].T
    # A draw of unjudged examples alone has no score; it says nothing about the spread.
    drawn = reference.all(axis=1)
    scores = (100 * model[drawn] / reference[drawn] * by_seed[drawn]).sum(axis=1) / seeds
    low, high = np.quantile(scores, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def read_summary(root: Path, who: str, what: str, name: str) -> dict[str, Any]:
    """The numbers of one cell for results/<student>.json, without the reasons."""
    content = read_json(summary_path(root, who, what, name))
    return {metric: value for metric, value in content.items() if metric != "reasons"}


def shown(cell: Mapping[str, Any]) -> str:
    """The text of one cell in a table: `61.2 ± 0.8`, or `not judged`.

    With unjudged pairs the number of judged ones follows: `61.2 ± 0.8 (498 of 500)`.
    """
    judge = cell.get("judge", {})
    if "mean" not in judge:
        return NOT_JUDGED
    of = f" ({judge['judged']} of {judge['pairs']})" if judge["judged"] < judge["pairs"] else ""
    return f"{with_spread(judge, 1)}{of}"
