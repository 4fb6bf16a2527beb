"""The analyses' model passes on tiny random models, against slow loops in float64, and the stages end to end."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from distill.evaluation.divergence import sample, trace
from distill.evaluation.likelihood import (
    encode_rows,
    encode_words,
    response_logprobs,
    token_mean_losses,
    word_logprobs,
)
from distill.evaluation.traces import Source
from distill.project.errors import DataError, SettingsError
from distill.prompting.prompts import encode_prompts, render
from distill.text.settings import PromptSettings
from distill.text.tokenizers import learn_bpe
from stages import calibration as calibration_stage
from stages import divergence as divergence_stage
from stages import measured_against as measured_against_stage
from stages import respond as respond_stage
from stages import results as results_stage
from stages import rouge as rouge_stage
from stages import teacher_samples as teacher_samples_stage
from tests.scored_project import put, put_rows, read, run

PROMPT = PromptSettings(
    with_input="{instruction}\n{input}\nSay: ",
    without_input="{instruction}\nSay: ",
    max_prompt_tokens=40,
    max_response_tokens=8,
)
METHODS = ("sft", "minillm")
ROWS: list[dict[str, Any]] = [
    {
        "id": i,
        "instruction": f"Ask {word}",
        "input": "some text" * (i % 3),
        "output": [f"{word} it is", "no"],
        "category": "",
    }
    for i, word in enumerate(("river", "stone", "a green house", "x", "seven apples"))
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return learn_bpe(["river stone green house seven apples Yes No ask say it is"], 270)


def random_model(seed: int, vocabulary: int, width: int = 16) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=width, n_positions=64, vocab_size=vocabulary))
    for parameter in model.parameters():
        # fresh GPT-2 weights give almost the same distribution everywhere
        parameter.data *= 6
    return model


def slow_logprobs(model: PreTrainedModel, prompt: list[int], response: list[int], vocabulary: int) -> Tensor:
    """log of the distribution before each response token, one forward pass for each, in float64, [T, V]."""
    exact = exact_copy(model)
    rows = []
    with torch.no_grad():
        for t in range(len(response)):
            logits = exact(input_ids=torch.tensor([prompt + response[:t]])).logits[0, -1, :vocabulary]
            rows.append(logits.log_softmax(-1))
    return torch.stack(rows)


def exact_copy(model: PreTrainedModel) -> PreTrainedModel:
    copy = deepcopy(model)
    torch.nn.Module.to(copy, torch.float64)
    copy.eval()
    return copy


@pytest.mark.parametrize("source", ["own", "teacher"])
def test_divergences_are_those_of_a_slow_loop(tokenizer: PreTrainedTokenizerBase, source: Source) -> None:
    # the teacher's vocabulary is padded: only the shared ids count
    student, teacher = random_model(0, len(tokenizer)), random_model(1, len(tokenizer) + 3, width=24)
    prompts = encode_prompts(tokenizer, PROMPT, ["Ask river", "Ask a longer question of stones", "x"])
    sampler = student if source == "own" else teacher
    responses = sample(sampler, prompts, 10, max_new_tokens=6, eos_id=0, batch_size=2)
    ids, states = [response.ids for response in responses], [response.hidden for response in responses]
    found = trace(student, teacher, source, prompts, 10, ids, 2, states)
    assert [(each.seed, each.prompt) for each in found] == [(10, 0), (10, 1), (10, 2)]
    for each, response in zip(found, responses, strict=True):
        logq, logp = (
            slow_logprobs(model, prompts[each.prompt], response.ids, len(tokenizer)) for model in (student, teacher)
        )
        reverse, forward = (logq.exp() * (logq - logp)).sum(-1), (logp.exp() * (logp - logq)).sum(-1)
        assert each.reverse_kl == pytest.approx(reverse.tolist(), rel=1e-3, abs=1e-4)
        assert each.forward_kl == pytest.approx(forward.tolist(), rel=1e-3, abs=1e-4)
    # the decode's own hidden states or a second pass, batches of 2 or of 5: the same numbers
    bare = sample(sampler, prompts, 10, max_new_tokens=6, eos_id=0, batch_size=3, keep_states=False)
    assert [response.ids for response in bare] == ids
    for one, other in zip(found, trace(student, teacher, source, prompts, 10, ids, batch_size=5), strict=True):
        assert one.reverse_kl == pytest.approx(other.reverse_kl, rel=1e-4, abs=1e-5)
        assert one.forward_kl == pytest.approx(other.forward_kl, rel=1e-4, abs=1e-5)


def test_a_model_does_not_diverge_from_itself(tokenizer: PreTrainedTokenizerBase) -> None:
    model = random_model(0, len(tokenizer))
    prompts = encode_prompts(tokenizer, PROMPT, ["Ask river"])
    responses = sample(model, prompts, 1, max_new_tokens=5, eos_id=0, batch_size=1)
    [found] = trace(model, model, "own", prompts, 1, [response.ids for response in responses], batch_size=1)
    assert max(map(abs, [*found.reverse_kl, *found.forward_kl])) < 1e-5


def test_loss_is_a_mean_over_the_tokens_of_each_reference(tokenizer: PreTrainedTokenizerBase) -> None:
    model = random_model(2, len(tokenizer))
    examples = encode_rows(tokenizer, PROMPT, ROWS)
    assert [example.reference for example in examples] == [row["output"][0] for row in ROWS]
    assert {example.response_ids[-1] for example in examples if len(example.response_ids) < 8} <= {
        tokenizer.eos_token_id
    }
    losses = token_mean_losses(model, examples, batch_size=2)
    for loss, example in zip(losses, examples, strict=True):
        exact = slow_logprobs(model, example.prompt_ids, example.response_ids, len(tokenizer))
        expected = -exact.gather(-1, torch.tensor(example.response_ids)[:, None]).mean()
        assert loss == pytest.approx(float(expected), rel=1e-4)
    assert token_mean_losses(model, examples, batch_size=5) == pytest.approx(losses, rel=1e-5)
    assert [len(each) for each in response_logprobs(model, examples, 3)] == [len(e.response_ids) for e in examples]


def test_words_are_scored_as_the_beginning_of_a_response(tokenizer: PreTrainedTokenizerBase) -> None:
    model = random_model(3, len(tokenizer))
    rows = [
        {"instruction": "Is it?", "input": "", "words": ["Yes", "No way"], "answer": 0},
        {"instruction": "long " * 60, "input": "", "words": ["Yes", "No way"], "answer": 0},
        {"instruction": "And now?", "input": "seven", "words": ["Yes", "No way"], "answer": 1},
    ]
    examples, kept = encode_words(tokenizer, PROMPT, rows)
    assert kept == [0, 2]
    assert all(tokenizer.eos_token_id not in example.response_ids for example in examples)
    assert tokenizer.decode(examples[3].response_ids) == "No way"
    found = word_logprobs(model, examples, 2, batch_size=3)
    assert found.shape == (2, 2)
    [prompt_ids] = encode_prompts(tokenizer, PROMPT, [render(PROMPT, "And now?", "seven")])
    ids = examples[3].response_ids
    exact = slow_logprobs(model, prompt_ids, ids, len(tokenizer)).gather(-1, torch.tensor(ids)[:, None]).sum()
    assert float(found[1, 1]) == pytest.approx(float(exact), rel=1e-4)


@pytest.fixture
def project(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher, two students, validation prompts, two sets: what the stages read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    put(
        tmp_path / "params.yaml",
        "students: {tiny: {family: toy}}\nfamilies: {toy: x}\ndatasets: {easy: a}\ncalibration: {whether: b}\n"
        "methods: &methods {sft: {tiny: {family: toy}}, minillm: {tiny: {family: toy}}}\ntrained: *methods\n"
        "seed: 0\nevaluation: {seeds: [10, 20]}\n",
    )
    recipe = {"dtype": "float32", "data": {}, "prompt": PROMPT.model_dump()}
    put(tmp_path / "profiles/toy.yaml", json.dumps({"recipe": recipe, "hardware": {"threads": 1}}))
    put_rows(tmp_path / "evaluation/easy.jsonl", ROWS)
    words = [
        {"id": i, "instruction": f"Is {i} even?", "input": "", "words": ["Yes", "No"], "answer": i % 2}
        for i in range(8)
    ]
    put_rows(tmp_path / "labelled/whether.jsonl", words)
    tokenizer.save_pretrained(tmp_path / "data/toy/tokenizer")
    ids = encode_prompts(tokenizer, PROMPT, [f"Ask {i}" for i in range(6)])
    columns = {"prompt_ids": ids, "response_ids": ids, "output": ["x"] * 6}
    pq.write_table(pa.table(columns), tmp_path / "data/toy/valid.parquet")
    for number, folder in enumerate(("runs/toy/teacher", *(f"runs/tiny/{method}" for method in METHODS))):
        random_model(number, len(tokenizer)).save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
        put(tmp_path / folder / "meta.json", json.dumps({"prompt": PROMPT.model_dump(), "tokens": f"from {number}"}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages that run models, then the scores."""
    run(monkeypatch, Path(), teacher_samples_stage, "toy")
    run(monkeypatch, Path(), measured_against_stage, "tiny")
    for method in METHODS:
        run(monkeypatch, Path(), divergence_stage, "tiny", method)
    for who, what in (("toy", "teacher"), *(("tiny", method) for method in METHODS)):
        run(monkeypatch, Path(), calibration_stage, who, what)
        run(monkeypatch, Path(), respond_stage, who, what, "easy")
        run(monkeypatch, Path(), rouge_stage, who, what, "easy")


def test_stages_write_what_the_results_gather(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_cells(monkeypatch)
    run(monkeypatch, project, results_stage, "tiny")
    found = read(project / "results/tiny.json")
    assert list(found) == ["teacher", *METHODS]
    kl = found["sft"]["kl"]
    ratio = kl["forward_kl_on_own_samples"]["mean"] / kl["forward_kl"]["mean"]
    assert found["sft"]["exposure"]["error_a_token"]["mean"] == pytest.approx(100 * (ratio - 1), rel=0.02, abs=0.5)
    summary = read(project / "analyses/tiny/summary.json")
    curve = (project / "analyses/tiny/exposure/sft.tsv").read_text().splitlines()
    assert curve[0] == "length\terror"
    assert len(curve) == 1 + len(summary["exposure"]["models"]["sft"]["curve"]["error"])
    assert (project / "analyses/tiny/reliability/whether.minillm.tsv").is_file()
    assert (project / "analyses/tiny/lengths/easy.teacher.tsv").is_file()
    assert summary["calibration"]["whether"]["examples"] == 8
    assert summary["models"]["sft"] == {"label": "sft", "tokens": "from 1"}
    for reference in summary["metrics"]:
        assert list(summary["significance"][reference]) == [model for model in found if model != reference]
    both = {"easy", "kl", "exposure", "calibration", "loss", "lengths"}
    assert set(summary["significance"]["sft"]["minillm"]) == both
    assert set(summary["significance"]["sft"]["teacher"]) == both - {"kl", "exposure"}


def test_a_new_teacher_concerns_the_divergences_of_its_students_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, project, teacher_samples_stage, "toy")
    run(monkeypatch, project, measured_against_stage, "tiny")
    path = project / "measures/tiny/reference.json"
    before = path.read_bytes()
    put(project / "profiles/toy.yaml", (project / "profiles/toy.yaml").read_text() + "\n")
    run(monkeypatch, project, measured_against_stage, "tiny")
    assert path.read_bytes() == before
    put(project / "runs/toy/teacher/meta.json", json.dumps({"prompt": PROMPT.model_dump()}))
    run(monkeypatch, project, measured_against_stage, "tiny")
    assert path.read_bytes() != before
    assert read(path)["family"] == "toy"


def test_samples_of_other_prompts_and_methods_left_out_are_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, project, teacher_samples_stage, "toy")
    put(project / "params.yaml", (project / "params.yaml").read_text().replace("[10, 20]", "[10]"))
    with pytest.raises(DataError, match="not those of these prompts and seeds; run `dvc repro`"):
        run(monkeypatch, project, divergence_stage, "tiny", "sft")
    put(project / "runs/tiny/sft/meta.json", json.dumps({"left_out": True}))
    with pytest.raises(SettingsError, match="leaves `sft` of `tiny` out, so there is nothing to measure"):
        run(monkeypatch, project, divergence_stage, "tiny", "sft")
