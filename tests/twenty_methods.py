"""A made-up student with twenty methods for the report: plausible numbers from a seed; nothing was trained for them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from distill.scoring.plots import Curve
from distill.scoring.results import StudentTable

DATA, DISTRIBUTION, TEACHERS, OWN = (
    "data",
    "data, with the teacher's distribution",
    "teacher's samples",
    "own samples",
)
# name → label, origin of the training tokens, quality from 0 to 1
METHODS: dict[str, tuple[str, str, float]] = {
    "sft": ("SFT", DATA, 0.30),
    "sft_long": ("SFT, twice as long", DATA, 0.32),
    "label_smoothing": ("SFT, smoothed labels", DATA, 0.31),
    "kd": ("KD", DISTRIBUTION, 0.36),
    "reverse_kd": ("KD, reverse KL", DISTRIBUTION, 0.41),
    "jsd": ("KD, Jensen-Shannon", DISTRIBUTION, 0.40),
    "tvd": ("KD, total variation", DISTRIBUTION, 0.38),
    "skew_forward": ("KD, skewed forward KL", DISTRIBUTION, 0.45),
    "skew_reverse": ("KD, skewed reverse KL", DISTRIBUTION, 0.47),
    "adaptive": ("AKL", DISTRIBUTION, 0.44),
    "seqkd": ("SeqKD", TEACHERS, 0.28),
    "seqkd_multi": ("SeqKD × k samples", TEACHERS, 0.55),
    "seqkd_kd": ("SeqKD with KD", TEACHERS, 0.50),
    "imitkd": ("ImitKD", OWN, 0.52),
    "fdistill": ("f-distill", OWN, 0.53),
    "gkd": ("GKD", OWN, 0.58),
    "distillm": ("DistiLLM", OWN, 0.60),
    "minillm": ("MiniLLM", OWN, 0.56),
    "single_step": ("Single-step KL", OWN, 0.62),
    "opd": ("On-policy distillation", OWN, 0.61),
}
SETS = ("toy_id", "toy_para", "toy_shift")
LABELLED = ("toy_whether", "toy_mood")
BUCKETS = {"[0,5]": 41, "[6,10]": 120, "[11,inf)": 139}
ATTACK = '<script>document.title = "run"</script>'
_QUALITY = {"teacher": 0.95, **{name: quality for name, (_, _, quality) in METHODS.items()}}


def experiment(sets: Sequence[str] = SETS) -> StudentTable:
    """The student and what params.yaml would name for it."""
    labels = {name: label for name, (label, *_) in METHODS.items()}
    return StudentTable("tiny", "toy", tuple(METHODS), tuple(sets), seed=0, labels=labels)


def summary(sets: Sequence[str] = SETS) -> dict[str, Any]:
    """The content of analyses/tiny/summary.json, with every model as reference."""
    rng = random.Random(0)
    metrics = {model: _metrics(model, sets, rng) for model in _QUALITY}
    return {
        "note": "Made up: twenty methods that nobody has trained.",
        "models": {
            "teacher": {"label": "Teacher", "tokens": ""},
            **{name: {"label": label, "tokens": tokens} for name, (label, tokens, _) in METHODS.items()},
        },
        "metrics": metrics,
        "significance": {
            reference: {model: _against(metrics, reference, model, sets) for model in metrics if model != reference}
            for reference in metrics
        },
        "exposure": {"models": {name: {"curve": _exposure(name), **metrics[name]["exposure"]} for name in METHODS}},
        "calibration": {
            name: {"models": {model: {**metrics[model]["calibration"][name], **_bins(model)} for model in metrics}}
            for name in LABELLED
        },
        "lengths": {
            name: {
                "references": {"p10": 6, "p50": 13, "p90": 24, "examples": BUCKETS},
                "models": {model: _lengths(model, rng) for model in metrics},
            }
            for name in sets
        },
    }


def curves() -> dict[str, dict[str, Curve]]:
    """Training curves: every method's loss and validation Rouge-L, and a third quantity of some."""
    steps = [float(step) for step in range(1, 601)]
    rng = random.Random(1)
    drawn: dict[str, dict[str, Curve]] = {"valid_rouge_l": {}, "loss": {}, "gradient_norm": {}}
    for name, (_, tokens, quality) in METHODS.items():
        points = steps[::60]
        rouge = [60 * quality * (1 - math.exp(-step / 150)) + rng.gauss(0, 0.5) for step in points]
        drawn["valid_rouge_l"][name] = (points, rouge)
        loss = [3 * math.exp(-step / 200) + 1.5 - quality + rng.gauss(0, 0.05) for step in steps]
        drawn["loss"][name] = (steps, loss)
        if tokens == OWN:
            drawn["gradient_norm"][name] = (steps, [abs(rng.gauss(1, 0.3)) for _ in steps])
    return drawn


def samples(sets: Sequence[str] = SETS) -> dict[str, Any]:
    """The block of JSON that the responses are laid out from: a prompt that is an attack, and every model's answer."""
    homes = {model: f"{'toy' if model == 'teacher' else 'tiny'}/{model}" for model in _QUALITY}
    labels = {"teacher": "Teacher", **{name: label for name, (label, _, _) in METHODS.items()}}
    prompts = [[i, f"Say where the seven apples are. {ATTACK}", "", "x", ["In the market."]] for i in range(3)]
    answers = [[f"In the market, {ATTACK}", 40.0, 0]] * len(prompts)
    return {
        "sets": {name: {"total": len(prompts), "prompts": prompts} for name in sets},
        "students": [
            {
                "name": "tiny",
                "sets": list(sets),
                "models": [[homes[model], model, labels[model]] for model in _QUALITY],
            }
        ],
        "answers": {homes[model]: dict.fromkeys(sets, answers) for model in _QUALITY},
    }


def _entry(mean: float, width: float) -> dict[str, Any]:
    return {"mean": round(mean, 4), "ci95": [round(mean - width, 4), round(mean + width, 4)]}


def _metrics(model: str, sets: Sequence[str], rng: random.Random) -> dict[str, Any]:
    quality = _QUALITY[model]
    found: dict[str, Any] = {}
    for place, name in enumerate(sets):
        rouge = 70 * quality * (1 - 0.15 * place) + rng.gauss(0, 1)
        found[name] = {
            "rouge_l": {**_entry(rouge, 2.7), "std": round(0.5 + rng.random(), 4), "per_seed": [round(rouge, 4)] * 5},
            "exact_match": {"mean": round(20 * quality * rng.random(), 4)},
            "response_tokens": _entry(15 + rng.gauss(0, 1), 0.6),
            "truncated": {"mean": round(rng.random(), 4)},
            "distinct_4": {"mean": round(95 - 20 * quality, 4), "std": 0.4},
            "repeated_4": _entry(0.4, 0.2),
            "loss": _entry(2.5 - 2 * quality + rng.gauss(0, 0.1), 0.15),
        }
    found["calibration"] = {
        name: {
            "accuracy": _entry(40 + 50 * quality + rng.gauss(0, 4), 5.5),
            "ece": _entry(abs(30 - 25 * quality + rng.gauss(0, 5)) + 2, 5.0),
            "word_mass": _entry(50 + 45 * quality, 2.0),
        }
        for name in LABELLED
    }
    if model != "teacher":
        error = 45 - 90 * quality + rng.gauss(0, 5)
        found["kl"] = {
            name: _entry(2.4 - 2.5 * quality + rng.gauss(0, 0.1) + 0.1, 0.08)
            for name in ("reverse_kl", "forward_kl", "reverse_kl_on_teacher_samples", "forward_kl_on_own_samples")
        }
        found["exposure"] = {
            "error": _entry(error, 11.0),
            "error_as_released": _entry(error + 12, 9.0),
            "error_a_token": _entry(error + rng.gauss(0, 3), 9.0),
        }
    return found


def _compared(a: dict[str, Any], b: dict[str, Any], lower: bool) -> dict[str, Any]:
    difference = a["mean"] - b["mean"]
    width = 0.8 * (a["ci95"][1] - a["ci95"][0]) / 2
    low, high = difference - width, difference + width
    settled = low > 0 or high < 0
    return {
        "difference": round(difference, 4),
        "ci95": [round(low, 4), round(high, 4)],
        "standard_error": round(width / 2, 4),
        "p_value": 0.0002 if settled else 0.4,
        "verdict": ("better" if (difference > 0) != lower else "worse") if settled else "not distinguishable",
    }


def _against(metrics: dict[str, Any], reference: str, model: str, sets: Sequence[str]) -> dict[str, Any]:
    ours, theirs = metrics[reference], metrics[model]
    found = {name: _compared(ours[name]["rouge_l"], theirs[name]["rouge_l"], lower=False) for name in sets}
    for part in ("kl", "exposure"):
        if part in ours and part in theirs:
            found[part] = {name: _compared(ours[part][name], theirs[part][name], lower=True) for name in ours[part]}
    found["calibration"] = {
        name: {
            metric: _compared(ours["calibration"][name][metric], theirs["calibration"][name][metric], metric == "ece")
            for metric in ("accuracy", "ece")
        }
        for name in LABELLED
    }
    found["loss"] = {name: _compared(ours[name]["loss"], theirs[name]["loss"], lower=True) for name in sets}
    return found


def _exposure(model: str) -> dict[str, Any]:
    end = 45 - 90 * _QUALITY[model]
    error = [round(end * (1 - math.exp(-length / 8)), 3) for length in range(1, 41)]
    return {"error": error, "low": [value - 8 for value in error], "high": [value + 8 for value in error]}


def _bins(model: str) -> dict[str, Any]:
    slope = 0.5 + 0.5 * _QUALITY[model]
    middles = [0.55, 0.65, 0.75, 0.85, 0.95]
    bins = [
        {"confidence": middle, "accuracy": min(1.0, slope * middle), "count": 30 * (place + 1)}
        for place, middle in enumerate(middles)
    ]
    return {"reliability": bins}


def _lengths(model: str, rng: random.Random) -> dict[str, Any]:
    median = 13 + rng.randint(-3, 3)
    return {
        "response_tokens": {"p10": median - 7, "p50": median, "p90": median + 12},
        "rouge_l": {bucket: _entry(65 * _QUALITY[model] - 5 * place, 4.0) for place, bucket in enumerate(BUCKETS)},
    }
