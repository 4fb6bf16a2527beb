"""Time and memory of what is to come: counted by hand, added up side by side, measured within its limit."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from commands import doctor
from commands.doctor_outlook import Outlook
from commands.doctor_plan import Measured, Plan, StudentPlan
from distill.data.settings import DataSettings
from distill.data.sources import Source
from distill.preflight import speeds
from distill.preflight.lengths import Lengths, counted_lengths, guessed_lengths
from distill.preflight.machine import Machine
from distill.preflight.memory_estimate import Placement, PlannedRun, estimate, sampling_estimate
from distill.preflight.models import PlannedModel
from distill.preflight.rough_speeds import rough_prices
from distill.preflight.schedule import Timed, heaviest, makespan
from distill.preflight.shapes import shape_of
from distill.preflight.workload import Batches, Units, Work, sampling_work, supervised_work
from distill.project.table import StudentRow, Table
from distill.text.settings import PromptSettings, TokenizerSettings, TrainedTokenizer
from distill.training.settings import SupervisedSettings

GIB = 2**30
SMALL = shape_of({"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 50})
SMOL = shape_of(
    {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True}
)
LENGTHS = Lengths(100, 10, 6.0, 4.0, 6, 4, 10, 4.0, known=True, limit=8)
PROMPT = PromptSettings(
    with_input="{instruction} {input}", without_input="{instruction}", max_prompt_tokens=64, max_response_tokens=32
)


def test_units_are_counted_as_by_hand() -> None:
    settings = SupervisedSettings(learning_rate=1e-3, batch_size=32, epochs=4, evaluate_every=4)
    work = supervised_work(settings, 100, LENGTHS, SMALL, SMALL, cached=True, batches=Batches(8, 20))
    # 100 rows of 10 tokens, 4 times; one validation of 10 prompts of 6 tokens, whose rows of 10 are read too
    assert (work.own.trained, work.own.learnt, work.own.updates) == (4000.0, 1600.0, 16)
    assert (work.own.read, work.own.scored, work.own.sampled) == (60.0 + 100.0, 40.0, 40.0)
    # ten rows reach the limit of eight almost surely, once
    assert work.own.steps == pytest.approx(8 - 4 * 0.8**10)
    assert work.teacher == Units(read=1000.0, scored=1600.0), "kept states: its layers once, its head every epoch"
    drawn = sampling_work(50, LENGTHS, SMALL, Batches(8, 20)).own
    assert drawn.steps == pytest.approx(2 * (8 - 4 * 0.8**20) + 8 - 4 * 0.8**10)
    assert drawn.seconds(Units(steps=2.0, sampled=0.5)) == pytest.approx(2 * drawn.steps + 100)


def test_stages_side_by_side_take_what_their_needs_allow() -> None:
    a, b = Timed("a", 5, 3 * GIB), Timed("b", 2, 4 * GIB)
    c, d = Timed("c", 4, 9 * GIB, ("a", "b")), Timed("d", 3, 2 * GIB, ("b", "built"))
    assert makespan([a, b, c, d], 1) == 14
    assert makespan([a, b, c, d], 2) == 9  # a beside b and then d, both done at five; then c
    assert {stage.name for stage in heaviest([a, b, c, d])} == {"c", "d"}
    assert [stage.name for stage in heaviest([a, c])] == ["c"], "c waits for a"
    assert [stage.name for stage in heaviest([a, b], slots=1)] == ["b"]


def planned(memory: float, seconds: float, machine: Machine) -> Outlook:
    """Two independent stages that take so much each."""
    run = estimate(PlannedRun("rows", SMALL, None, 8, 6, 4), Placement())
    held = replace(run, device={"moment": {"weights": memory}}, host={})
    plans = [Plan(f"{n}@one", Path("nowhere"), "student", Work(1, 1, 0, own=Units(1.0)), held, 1.0) for n in "ab"]
    origins = {role: PlannedModel("fresh", SMALL, "fresh") for role in ("teacher", "student")}
    students = {"one": StudentRow(family="f")}
    methods = {"sft": students}
    table = Table(students=students, families={"f": "."}, datasets={}, methods=methods, trained=methods)
    prices = {("one", "teacher"): Units(), ("one", "student"): Units(trained=seconds)}
    row = StudentPlan("one", origins, LENGTHS, tuple(plans))
    return Outlook(table, {}, (row,), Measured({}, {}, 1), machine, prices=prices)


def test_memory_of_two_stages_is_added_up_and_a_day_is_named() -> None:
    machine = Machine(gpus=(), memory=10 * GIB, available=9 * GIB, disk=99 * GIB, cores=2)
    (found,) = doctor.together_findings(planned(4 * GIB, 1, machine))
    assert found.level == "ok" and "a@one and b@one run side by side and need about 8.0 GiB" in found.text
    (found,) = doctor.together_findings(planned(6 * GIB, 1, machine))
    assert found.level == "stop" and found.text.endswith("build one at a time: `make repro SLOTS=1`")
    assert doctor.together_findings(replace(planned(6 * GIB, 1, machine), slots=1)) == []
    assert doctor.time_findings(planned(GIB, 86_000, machine)) == []
    (found,) = doctor.time_findings(planned(GIB, 10 * 86_400, machine))
    assert found.level == "warn" and "a@one takes about 10.0 days here" in found.text and "1 more stage" in found.text


def test_a_calibration_keeps_its_seconds_and_prices_follow_the_layers() -> None:
    told: list[str] = []
    lengths = Lengths(100, 10, 300.0, 200.0, 400, 300, 512, 200.0, known=True, limit=256)
    began = time.process_time()
    shapes = {"teacher": SMOL, "student": replace(SMOL, layers=20)}
    found = speeds.calibrate(shapes, lengths, Batches(16, 64), 1, seconds=3.0, tell=told.append)
    # By the CPU's clock, since a busy machine's wall clock proves nothing; whole micro-batches took 157 s.
    assert time.process_time() - began < 12
    assert len(told) == 3 and told[0] == "measuring this machine: teacher and student, the layers in training"
    for name in ("trained", "read"):
        assert getattr(found["teacher"], name) == pytest.approx(1.5 * getattr(found["student"], name), rel=1e-6)
    assert all(getattr(found["teacher"], name) > 0 for name in ("trained", "learnt", "read", "scored", "updates"))
    assert found["teacher"].steps + found["teacher"].sampled > 0


def test_rough_prices_tell_an_hour_from_a_week() -> None:
    """A core trains 135 million parameters at some ninety tokens a second, and decodes a hundred at batch 16."""
    prices = rough_prices(SMOL, 200, 4, gpu=False, threads=1)
    assert 30 < 1 / (prices.trained + prices.learnt) < 300
    assert 40 < 16 / (prices.steps + 16 * prices.sampled) < 400
    gpu = rough_prices(SMOL, 200, 4, gpu=True, threads=1)
    assert gpu.trained < prices.trained / 100


def test_rows_are_counted_before_they_are_prepared(tmp_path: Path) -> None:
    rows = [{"instruction": f"word {i} {'again ' * (i % 5)}", "output": "the end of it"} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataSettings(train=Source(path="mine.jsonl"), valid_rows=10)
    tokens = TokenizerSettings(train=TrainedTokenizer(vocab_size=258))
    counted = counted_lengths(data, PROMPT, tokens, tmp_path)
    # With a token a byte, or hardly fewer: "the end of it" and the end of sequence.
    assert (counted.rows, counted.valid, counted.known) == (50, 10, True)
    assert 8 <= counted.response <= 14 and counted.limit == 32
    guessed = guessed_lengths(data, PROMPT, tmp_path)
    assert (guessed.rows, guessed.valid, guessed.known) == (50, 10, False)
    assert guessed.response == pytest.approx(13 / 4 + 1) and guessed.longest_response == 32
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    listed = data.model_copy(update={"train": Source(path="mine.json")})
    assert guessed_lengths(listed, PROMPT, tmp_path) == guessed, "a list on one line is as many rows"


def test_a_validation_is_estimated_with_some_logits_at_a_time() -> None:
    # The peak of a validation no longer grows with the decode batch times a real vocabulary.
    run = PlannedRun("rows", SMOL, None, 8, 256, 256, validated=1000)
    parts = estimate(run, Placement(decode_batch=64)).device["validation, loss"]
    assert parts["logits"] <= 2 * 4 * 2**25
    assert sampling_estimate(run, Placement()).peak < estimate(run, Placement()).peak
