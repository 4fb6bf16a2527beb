"""The recipe that `commands.adopt` writes: chosen by the models' sizes from the paper's tables, each choice explained.

Learning rates, epochs and batch: arXiv 2306.08543v4, appendix B.1, and the authors' scripts where it names a range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commands.adopt_models import Models
from commands.methods import Method
from distill.data.rows import Fields
from distill.project.references import Reference


@dataclass(frozen=True)
class Size:
    """What the paper does with models of a size."""

    below: float
    """Parameters."""
    rate: str
    epochs: int
    like: str
    micro_batch: int


# The paper's line is at 1.3B: 20 epochs below it, 10 from there on. Rates within its ranges are the scripts'.
SIZES = (
    Size(0.2e9, "5e-4", 20, "GPT-2 120M", 16),
    Size(1.2e9, "1e-4", 20, "GPT-2 340M and 760M", 8),
    Size(4e9, "5e-5", 10, "GPT-2 1.5B, OPT 1.3B and 2.7B", 4),
    Size(float("inf"), "1e-5", 10, "OPT 6.7B and 13B, LLaMA 7B and 13B", 2),
)

_ALPACA = "Below is an instruction that describes a task"
_ANSWER = "Write a response that appropriately completes the request."


@dataclass(frozen=True)
class Adoption:
    """All that the profile depends on."""

    name: str
    teacher: Reference
    student: Reference
    finished_teacher: bool
    models: Models
    train: str
    rows: int
    fields: Fields
    corpus: str | None
    methods: tuple[Method, ...]
    """Those of params.yaml: each gets a section."""

    @property
    def valid_rows(self) -> int:
        """A tenth of the rows, at most the paper's 1,000."""
        return max(1, min(1000, self.rows // 10))

    @property
    def steps(self) -> int:
        """The paper's 5,000, or ten passes over the prompts where that is less, at which the scripts stop."""
        collections = max(1, round(10 * (self.rows - self.valid_rows) / 256))
        return min(5000, 16 * collections)


def size_of(parameters: int) -> Size:
    """The row of the table that a model belongs to."""
    return next(size for size in SIZES if parameters < size.below)


def profile_text(adoption: Adoption) -> str:
    """profiles/<name>.yaml as text."""
    return "\n".join([*_head(adoption), *_data(adoption), *_prompt(adoption), *_models(adoption), *_hardware(adoption)])


def _head(adoption: Adoption) -> list[str]:
    memory = 16 * max(adoption.models.teacher_parameters, adoption.models.student_parameters) / 1e9
    return [
        f"# {adoption.name}: written by `python -m commands.adopt`; from here on it is yours to change.",
        "# Hyperparameters by the models' sizes: arXiv 2306.08543v4, appendix B.1 and, for rates within its ranges,",
        "# the authors' scripts. They are a start: sweep the learning rate of each method before comparing methods.",
        f"# Adam in float32 takes 16 bytes a trained parameter: {memory:.3g} GB for the larger model.",
        "",
        "recipe:",
        f"  note: {adoption.name} profile, hyperparameters by size from the MiniLLM paper, not swept",
        "  dtype: float32    # the scripts train in half precision over float32 master weights",
        "",
    ]


def _data(adoption: Adoption) -> list[str]:
    lines = [
        "  data:",
        f"    train: {{path: {json.dumps(adoption.train)}}}",
        f"    valid_rows: {adoption.valid_rows}    # a tenth of {adoption.rows:,} rows, at most the paper's 1,000",
    ]
    if changed := adoption.fields.model_dump(exclude_defaults=True):
        lines.append(f"    fields: {_flow(changed)}")
    if adoption.corpus is not None:
        lines.append(f"    corpus: {{path: {json.dumps(adoption.corpus)}}}    # D_PT")
    return [*lines, "    rows: {teacher: null, student: null}    # all", ""]


def _prompt(adoption: Adoption) -> list[str]:
    half = min(512, adoption.models.positions) // 2
    if adoption.models.chat:
        why = "# The tokenizer brings a chat template: the row is one user turn of it, with nothing around."
        templates = ("{instruction}\n\n{input}", "{instruction}")
    else:
        why = "# The authors' template (Alpaca's); the tokenizer brings no chat template."
        context = ", paired with an input that provides further context"
        templates = (
            f"{_ALPACA}{context}. {_ANSWER}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n"
            "### Response:\n",
            f"{_ALPACA}. {_ANSWER}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n",
        )
    limit = "the paper's limits" if half == 256 else f"half of the {adoption.models.positions} tokens a model reads"
    lines = [
        f"  {why}",
        "  prompt:",
        f"    with_input: {json.dumps(templates[0])}",
        f"    without_input: {json.dumps(templates[1])}",
        f"    # Prompts and answers have {limit}; longer prompts are left out of training.",
        "    # Rows are cut where prompt and response together reach `max_sequence_tokens`. The audit counts both.",
        f"    max_prompt_tokens: {half}",
        f"    max_response_tokens: {half}",
        f"    max_sequence_tokens: {2 * half}",
    ]
    if adoption.models.chat:
        lines.append(f"    chat_template: {json.dumps(adoption.models.template or True)}")
        lines += [f"    # {note}." for note in adoption.models.notes]
        if adoption.models.system is not None:
            lines.append(f"    system: {json.dumps(adoption.models.system)}    # the template demands a system turn")
    lines += ["", "  tokenizer:", f"    source: {_reference(adoption.student)}"]
    if adoption.models.chat and adoption.models.end_of_turn is not None:
        token = json.dumps(adoption.models.end_of_turn)
        lines.append(f"    eos_token: {token}    # with which the template ends a turn")
    return [*lines, ""]


def _models(adoption: Adoption) -> list[str]:
    teacher, student = (size_of(n) for n in (adoption.models.teacher_parameters, adoption.models.student_parameters))
    lines = ["  teacher:"]
    if adoption.finished_teacher:
        lines += ["    model: null    # finished: not fine-tuned here", f"    from: {_reference(adoption.teacher)}"]
    else:
        lines += [
            f"    model: {{source: {_reference(adoption.teacher)}}}",
            f"    # Rate and epochs as {teacher.like}.",
            f"    sft: {{learning_rate: {teacher.rate}, batch_size: 32, epochs: {teacher.epochs}}}",
        ]
    samples = max([1, *(_CHOSEN.get(m.name, {}).get("samples_per_prompt", 1) for m in adoption.methods)])
    lines += [
        "",
        f"  pseudo: {{samples_per_prompt: {samples}}}    # the most that a method below learns from; the paper draws 1",
        "",
        "  students:",
        f"    {adoption.name}-student:",
        f"      model: {{source: {_reference(adoption.student)}}}",
        f"      # Rate and epochs as {student.like}; 32 is the smaller of the paper's two batches.",
        "      # `init` is the start of methods on own samples: 3 epochs, lowest validation loss.",
        f"      init: {{learning_rate: {student.rate}, batch_size: 32, epochs: 3, select: loss}}",
    ]
    lines += [line for method in adoption.methods if not method.own_samples for line in _on_rows(method, student)]
    own = [method for method in adoption.methods if method.own_samples]
    return [
        *lines,
        *(_own_samples_notes(adoption) if own else []),
        *(line for method in own for line in _own(method, adoption)),
        "",
    ]


# Settings of named methods that differ from their objective's defaults; any other method takes the defaults.
_CHOSEN: dict[str, dict[str, Any]] = {
    "kd": {"kd_ratio": 0.5},
    "seqkd": {"samples_per_prompt": 1},
    "seqkd_multi": {"epochs": 3, "samples_per_prompt": 8},  # a control of this project, at MiniLLM's compute
    "single_step": {"policy_gradient": False},  # a control of this project
}


def _on_rows(method: Method, size: Size) -> list[str]:
    """The section of a method that trains on rows."""
    values = {"learning_rate": size.rate, "batch_size": 32, "epochs": size.epochs, **_CHOSEN.get(method.name, {})}
    return [f"      {method.name}: {{{_settings(values)}}}"]


def _own_samples_notes(adoption: Adoption) -> list[str]:
    reason = "the paper's" if adoption.steps == 5000 else "ten passes over the prompts, at which the scripts stop"
    plain = [] if adoption.corpus is not None else ["      # No plain text was given, so L_PT is off (`--corpus`)."]
    return [
        "      # The paper: rate 5e-6 for every size, 256 rollouts, mini-batch 64, 4 inner epochs.",
        f"      # Steps: {reason}. `reference` is the formula of the released code.",
        *plain,
    ]


def _own(method: Method, adoption: Adoption) -> list[str]:
    """The section of a method that trains on own samples."""
    steps = adoption.steps
    first: dict[str, Any] = {"learning_rate": "5e-6", "max_steps": steps, "warmup_steps": min(100, steps // 10)}
    if "preset" in method.settings.model_fields:
        first = {"preset": "reference", **first}
    first["evaluate_every"] = min(100, steps)
    text = {"lm_coef": 1.0, "lm_batch": 64, "lm_length": 512} if adoption.corpus is not None else {"lm_coef": 0.0}
    second = {**text, **_CHOSEN.get(method.name, {})}
    return [f"      {method.name}:", f"        {{{_settings(first)},", f"         {_settings(second)}}}"]


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {str(value).lower()}" for name, value in values.items())


def _hardware(adoption: Adoption) -> list[str]:
    size = size_of(adoption.models.student_parameters)
    return [
        "hardware:    # changes no result; DVC does not watch it",
        f"  micro_batch: {size.micro_batch}",
        "  decode_batch: 64",
        "",
    ]


def _reference(source: Reference) -> str:
    return _flow(source.model_dump(exclude_defaults=True))


def _flow(values: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {json.dumps(value)}" for name, value in values.items()) + "}"
