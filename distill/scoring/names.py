"""What results files, tables and charts call things."""

from __future__ import annotations

TEACHER = "teacher"
REFERENCE_METHOD = "minillm"
"""The method that is compared with every other model."""

# Keys of a model in results/<student>.json that stand beside the names of its evaluation sets.
KL, EXPOSURE, CALIBRATION, LOSS, LENGTHS = "kl", "exposure", "calibration", "loss", "lengths"
RESERVED = (KL, EXPOSURE, CALIBRATION, LOSS, LENGTHS)

# How the literature writes the names; a method that is not here keeps its own.
_LABELS = {
    "teacher": "Teacher",
    "sft": "SFT",
    "kd": "KD",
    "seqkd": "SeqKD",
    "minillm": "MiniLLM",
    "seqkd_multi": "SeqKD × k samples",
    "single_step": "Single-step KL",
}


def label(model: str) -> str:
    """The name of a model as the literature writes it."""
    return _LABELS.get(model, model)
