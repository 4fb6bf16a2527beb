"""The recipe that `commands.adopt` writes: chosen by the models' sizes from the paper's tables, each choice explained.

Learning rates, epochs and batch: arXiv 2306.08543v4, appendix B.1, and the authors' scripts where it names a range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commands.adopt_look import Cut
from commands.adopt_models import Models
from commands.adopt_prompt import SHORT, Prompt, TokenLimit
from commands.methods import Method
from distill.data.rows import Fields
from distill.models.settings import spans
from distill.project.references import Reference
from distill.text.words import PAPER, Words


@dataclass(frozen=True)
class PaperSize:
    """What the paper does with models of a size."""

    below: float
    """Parameters."""
    rate: str
    epochs: int
    like: str
    micro_batch: int
    gentle_rate: str
    """For a model that follows instructions already; the paper has none. A fifth to a half of the other."""


# The paper's line is at 1.3B: 20 epochs below it, 10 from there on. Rates within its ranges are the scripts'.
SIZES = (
    PaperSize(0.2e9, "5e-4", 20, "GPT-2 120M", 16, "1e-4"),
    PaperSize(1.2e9, "1e-4", 20, "GPT-2 340M and 760M", 8, "5e-5"),
    PaperSize(4e9, "5e-5", 10, "GPT-2 1.5B, OPT 1.3B and 2.7B", 4, "1e-5"),
    PaperSize(float("inf"), "1e-5", 10, "OPT 6.7B and 13B, LLaMA 7B and 13B", 2, "5e-6"),
)
_GENTLE_EPOCHS = 3
_MOST_VALID_ROWS = 1000


@dataclass(frozen=True)
class Pace:
    """Rate and epochs of a model's supervised training."""

    rate: str
    epochs: int
    why: str


def pace_of(parameters: int, instructed: bool) -> Pace:
    """The paper's for a base model of that size; less of both for one that follows instructions already."""
    size = size_of(parameters)
    if instructed:
        return Pace(size.gentle_rate, _GENTLE_EPOCHS, "a guess for a model that follows instructions already")
    return Pace(size.rate, size.epochs, f"as {size.like} in the paper")


@dataclass(frozen=True)
class Adoption:
    """All that the profile depends on."""

    name: str
    teacher: Reference
    student: Reference
    finished_teacher: bool
    models: Models
    prompt: Prompt
    train: str
    test: str
    """Rows of the evaluation set, from where the training rows lie; the audit looks for duplicates with them."""
    valid: str | None
    """Rows for validation, likewise; None takes some of the training rows."""
    rows: int
    fields: Fields
    corpus: str | None
    methods: tuple[Method, ...]
    """Those of params.yaml: each gets a section."""
    notes: tuple[str, ...] = ()
    """What was left out of the user's files, since copies of them do not tell."""
    words: Words = PAPER
    """Words of Rouge-L."""
    cut: Cut | None = None
    """How the student is cut from its model."""

    @property
    def valid_rows(self) -> int:
        """Rows taken out of the training rows: a tenth, at most the paper's 1,000, or none beside a file of them."""
        return 0 if self.valid is not None else max(1, min(_MOST_VALID_ROWS, self.rows // 10))

    @property
    def teacher_pace(self) -> Pace:
        """How the teacher is fine-tuned."""
        return pace_of(self.models.teacher_parameters, self.models.teacher_instructed)

    @property
    def student_pace(self) -> Pace:
        """How the student is trained on rows."""
        return pace_of(self.models.student_parameters, self.models.student_instructed)

    @property
    def steps(self) -> int:
        """The paper's 5,000, or ten passes over the prompts where that is less, at which the scripts stop."""
        collections = max(1, round(10 * (self.rows - self.valid_rows) / 256))
        return min(5000, 16 * collections)


def size_of(parameters: int) -> PaperSize:
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
        f"  note: {adoption.name} profile, hyperparameters by the models' sizes, not swept",
        "  dtype: float32    # the scripts train in half precision over float32 master weights",
        "",
    ]


def _data(adoption: Adoption) -> list[str]:
    if adoption.valid is None:
        valid = (
            f"    valid_rows: {adoption.valid_rows}    # a tenth of {adoption.rows:,} rows, at most the paper's 1,000"
        )
    else:
        first = f"{{path: {_quoted(adoption.valid)}, limit: {_MOST_VALID_ROWS}}}"
        valid = f"    valid: {first}    # no more, because each validation answers them all"
    lines = [
        *(f"  # {' '.join(note.split())}" for note in adoption.notes),
        "  data:",
        f"    train: {{path: {_quoted(adoption.train)}}}",
        valid,
        f"    test: {{path: {_quoted(adoption.test)}}}    # the evaluation set, to report duplicates with it",
    ]
    if changed := adoption.fields.model_dump(exclude_defaults=True):
        lines.append(f"    fields: {flow(changed)}")
    if adoption.corpus is not None:
        lines.append(f"    corpus: {{path: {_quoted(adoption.corpus)}}}    # D_PT")
    if adoption.words != PAPER:
        lines.append(f"    rouge: {adoption.words}    # the paper's words, of a-z and 0-9, are too few in these rows")
    return [*lines, "    rows: {teacher: null, student: null}    # all", ""]


def _prompt(adoption: Adoption) -> list[str]:
    prompt = adoption.prompt
    if prompt.chat:
        why = "# The tokenizer brings a chat template: the row is one user turn of it, with nothing around."
    elif prompt.templates == SHORT:
        why = "# No template around the row: the authors' would take most of the tokens that the models read."
    else:
        why = "# The authors' template (Alpaca's); the tokenizer brings no chat template."
    lines = [
        f"  {why}",
        "  prompt:",
        f"    with_input: {_quoted(prompt.templates[0])}",
        f"    without_input: {_quoted(prompt.templates[1])}",
        f"    # Limits by {prompt.rows:,} of the rows; the models read {adoption.models.positions:,} tokens.",
        f"    # Prompts: {_spread(prompt.prompts)}; {prompt.prompts.over:,} are over the limit and left out.",
        f"    # Answers: {_spread(prompt.responses)}; {prompt.responses.over:,} are cut.",
        f"    max_prompt_tokens: {prompt.prompts.limit}",
        f"    max_response_tokens: {prompt.responses.limit}",
        f"    max_sequence_tokens: {prompt.prompts.limit + prompt.responses.limit}",
    ]
    if prompt.chat:
        lines.append(f"    chat_template: {json.dumps(adoption.models.template or True)}")
        lines += [f"    # {note}." for note in adoption.models.notes]
        if adoption.models.system is not None:
            lines.append(f"    system: {json.dumps(adoption.models.system)}    # the template demands a system turn")
    lines += ["", "  tokenizer:", f"    source: {_reference(adoption.student)}"]
    if prompt.chat and adoption.models.end_of_turn is not None:
        token = json.dumps(adoption.models.end_of_turn)
        lines.append(f"    eos_token: {token}    # with which the template ends a turn")
    return [*lines, ""]


def _spread(lengths: TokenLimit) -> str:
    return f"95 % have up to {lengths.usual:,} tokens, the longest {lengths.longest:,}"


def _models(adoption: Adoption) -> list[str]:
    teacher, student = adoption.teacher_pace, adoption.student_pace
    lines = ["  teacher:"]
    if adoption.finished_teacher:
        lines += ["    model: null    # finished: not fine-tuned here", f"    from: {_reference(adoption.teacher)}"]
    else:
        lines += [
            f"    model: {{source: {_reference(adoption.teacher)}}}",
            f"    # Rate and epochs: {teacher.why}; not swept.",
            f"    sft: {{learning_rate: {teacher.rate}, batch_size: 32, epochs: {teacher.epochs}}}",
        ]
    samples = max([1, *(_CHOSEN.get(m.name, {}).get("samples_per_prompt", 1) for m in adoption.methods)])
    lines += [
        "",
        f"  pseudo: {{samples_per_prompt: {samples}}}    # the most that a method below learns from; the paper draws 1",
        "",
        "  students:",
        f"    {adoption.name}-student:",
        *_student_model(adoption),
        f"      # Rate and epochs: {student.why}; not swept. 32 is the smaller of the paper's two batches.",
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


def _student_model(adoption: Adoption) -> list[str]:
    source, cut = _reference(adoption.student), adoption.cut
    if cut is None:
        return [f"      model: {{source: {source}}}"]
    if cut.losses:
        best, worst = cut.losses[0], cut.losses[-1]
        why = f"of {len(cut.losses)} ways to cut, the lowest loss on some rows untrained: {best:.2f} nats a token; the"
        notes = [
            f"      # Layers left out: {why}",
            f"      # worst {worst:.2f}. `pretrain` on a corpus heals it further.",
        ]
    else:
        notes = ["      # Layers left out: the middle block; no other cut was compared with it."]
    return [*notes, f"      model: {{source: {source}, drop_layers: [{spans(cut.dropped)}]}}"]


# Settings of named methods that differ from their objective's defaults; any other method takes the defaults.
_CHOSEN: dict[str, dict[str, Any]] = {
    "kd": {"kd_ratio": 0.5},
    "seqkd": {"samples_per_prompt": 1},
    "seqkd_multi": {"epochs": 3, "samples_per_prompt": 8},  # a control of this project, at MiniLLM's compute
    "single_step": {"policy_gradient": False},  # a control of this project
}


def _on_rows(method: Method, pace: Pace) -> list[str]:
    """The section of a method that trains on rows."""
    values = {"learning_rate": pace.rate, "batch_size": 32, "epochs": pace.epochs, **_CHOSEN.get(method.name, {})}
    values["epochs"] = min(values["epochs"], pace.epochs)
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
    text = (
        {"lm_coef": 1.0, "lm_batch": 64, "lm_length": min(512, adoption.models.positions)}
        if adoption.corpus is not None
        else {"lm_coef": 0.0}
    )
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
    return flow(source.model_dump(exclude_defaults=True))


def flow(values: Mapping[str, str]) -> str:
    """A mapping of texts as YAML on one line."""
    return "{" + ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items()) + "}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
