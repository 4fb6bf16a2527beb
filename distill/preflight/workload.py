"""The work of one row's stages, counted from settings and the data's audit: steps, tokens, operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.on_policy.settings import OnPolicySettings
from distill.preflight.shapes import Shape
from distill.project.files import read_json
from distill.text.settings import PromptSettings
from distill.training.settings import SupervisedSettings

# A backward pass costs twice a forward pass.
_TRAINED = 3


@dataclass(frozen=True)
class Lengths:
    """Lengths of the prepared data, or the limits of the settings before there are any."""

    rows: int | None
    """Training rows; None before they are known."""
    valid: int | None
    prompt: float
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response of the data."""
    longest_prompt: int
    longest_response: int
    longest_sequence: int
    """Tokens of the longest row, prompt and response together; no less than any row has."""
    generated: float
    """Mean tokens of a sampled response: as in the data, while the limit of generation allows."""
    known: bool
    """Read from prepared data."""
    valid_p95: int | None = None
    """Response tokens that 19 of 20 validation rows do not exceed; None while nobody knows."""

    def validation_tokens(self, rows: int) -> int:
        """No fewer response tokens than any `rows` validation rows hold together."""
        if self.valid is None or self.valid_p95 is None:
            return rows * self.longest_response
        # At most a twentieth of the set is above p95; all rows at the maximum would be twice what Dolly's batches hold.
        above = min(rows, self.valid // 20)
        return above * self.longest_response + (rows - above) * self.valid_p95


def read_lengths(data: Path, prompt: PromptSettings, expected_rows: int | None) -> Lengths:
    """Read from preparation's audit in `data`, or else from the limits of the prompt settings and `expected_rows`."""
    path = data / "report.json"
    if not path.is_file():
        longest, sequence = prompt.max_prompt_tokens, prompt.max_sequence_tokens
        # The longest response stands behind a prompt of one token, the mean row holds a prompt at its limit.
        return Lengths(
            expected_rows,
            None,
            float(longest),
            float(prompt.response_limit(longest)),
            longest,
            prompt.response_limit(1),
            sequence or longest + prompt.max_response_tokens,
            float(min(prompt.response_limit(longest), prompt.max_response_tokens)),
            known=False,
        )
    splits: Mapping[str, Any] = read_json(path)["splits"]
    train, valid = splits["train"], splits.get("valid", {})
    prompts, responses = train["prompt_tokens"], train["response_tokens"]
    prompt_max = max(prompts["max"], valid.get("prompt_tokens", prompts)["max"])
    response_max = max(responses["max"], valid.get("response_tokens", responses)["max"])
    # The audit counts the two apart; the longest of each need not meet in one row.
    longest = prompt_max + response_max
    return Lengths(
        train["kept"],
        valid.get("kept"),
        prompts["mean"],
        responses["mean"],
        prompt_max,
        response_max,
        longest if prompt.max_sequence_tokens is None else min(longest, prompt.max_sequence_tokens),
        min(responses["mean"], float(prompt.max_response_tokens)),
        known=True,
        valid_p95=valid.get("response_tokens", {}).get("p95"),
    )


@dataclass(frozen=True)
class Work:
    """One stage."""

    steps: int
    """Optimiser steps."""
    trained: float
    """Tokens that pass forward and backward."""
    generated: float
    """Tokens sampled, one at a time."""
    operations: float
    """Floating point operations of the passes over whole sequences."""
    decoding: float
    """Floating point operations of sampling, which runs at another speed."""


def supervised_work(
    settings: SupervisedSettings, rows: int, lengths: Lengths, student: Shape, teacher: Shape | None, cached: bool
) -> Work:
    """A stage on `rows` rows; a `cached` teacher reads each row once, another every epoch."""
    length = lengths.prompt + lengths.response
    # Rounded up: the last, smaller batch of an epoch is a step too.
    steps = -(-rows // settings.batch_size) * settings.epochs
    trained, answers = float(rows * settings.epochs) * length, float(rows * settings.epochs) * lengths.response
    # The head runs on response tokens alone; a weight costs a product and an addition.
    operations = _TRAINED * (_body(student, length) * trained + 2 * student.embedding * answers)
    if teacher is not None:
        # A frozen teacher only runs forward; kept states spare its body in later epochs, but not its head.
        operations += _body(teacher, length) * (rows * length if cached else trained) + 2 * teacher.embedding * answers
    checks = settings.epochs // settings.evaluate_every
    return _with_validation(Work(steps, trained, 0.0, operations, 0.0), checks, lengths, student)


def on_policy_work(settings: OnPolicySettings, lengths: Lengths, student: Shape, teacher: Shape) -> Work:
    """Rollouts of the student or of both models, rows that are read in their place, updates, plain text."""
    length = lengths.prompt + lengths.generated
    collections = -(-settings.max_steps // settings.steps_per_collection)
    sampled = collections * settings.rollouts * settings.own_share
    read = collections * settings.rollouts - sampled
    generated = sampled * lengths.generated
    # The teacher samples along in a mixture; otherwise it reads what the student has sampled.
    samplers = (student, teacher) if settings.teacher_mix_alpha else (student,)
    decoding = sum(s.forward_operations(length / 2) for s in samplers) * generated
    # Prompts are read below the head: the logits of their last position are those of the first sampled token.
    decoding += sum(_body(s, length) for s in samplers) * sampled * lengths.prompt
    sequences = settings.max_steps * settings.minibatch
    plain = settings.max_steps * settings.lm_batch * settings.lm_length if settings.lm_coef else 0
    operations = _TRAINED * (_body(student, length) * sequences * length)
    operations += _body(student, length) * read * length
    operations += _body(teacher, length) * (read if settings.teacher_mix_alpha else read + sampled) * length
    # The teacher's states were kept in the decode, so an update runs its head alone.
    operations += 2 * (_TRAINED * student.embedding + teacher.embedding) * sequences * lengths.generated
    operations += _TRAINED * student.forward_operations(settings.lm_length) * plain
    if settings.lm_kd_ratio:
        operations += teacher.forward_operations(settings.lm_length) * plain
    done = Work(settings.max_steps, sequences * length + plain, generated, operations, decoding)
    return _with_validation(done, 1 + settings.max_steps // settings.evaluate_every, lengths, student)


def sampling_work(responses: float, lengths: Lengths, shape: Shape) -> Work:
    """A stage that only samples `responses` responses."""
    generated = responses * lengths.generated
    # A sampled token sees the whole prompt and, on average, half of the response.
    decoding = shape.forward_operations(lengths.prompt + lengths.generated / 2) * generated
    return Work(0, 0.0, generated, 0.0, decoding + _body(shape, lengths.prompt) * responses * lengths.prompt)


def _body(shape: Shape, length: float) -> float:
    """Operations of a token's forward pass below the head, in a sequence of `length`: it sees half of it on average."""
    return shape.forward_operations(length / 2, head=False)


def _with_validation(work: Work, checks: int, lengths: Lengths, student: Shape) -> Work:
    """The same with `checks` validations: each answers every row once and reads its reference."""
    rows = checks * (lengths.valid or 0)
    answers = sampling_work(rows, lengths, student)
    reading = rows * student.forward_operations(lengths.response) * (lengths.prompt + lengths.response)
    return Work(
        work.steps,
        work.trained,
        work.generated + answers.generated,
        work.operations + reading,
        work.decoding + answers.decoding,
    )
