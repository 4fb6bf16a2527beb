"""What the decode knows about each token, against plain unpadded passes; and which passes it makes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from distill.generation.decode import Mixture, Response, sample_responses
from distill.generation.frontier import left_pad
from distill.generation.probe import way_of_decoding
from distill.models.parts import backbone, head, require_plain_head, shared_vocabulary
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.losses import Packed
from distill.on_policy.packing import MicroBatch, micro_batches, require_agreement
from distill.on_policy.passes import right_pad
from distill.on_policy.rollouts import Collection, collect
from distill.project.errors import ModelError, TrainingError
from distill.project.randomness import key
from tests.tiny_models import ARCHITECTURES, EOS, checksum, tiny_model

LONGEST = 12
PROMPTS = [[3], [1, EOS, 2], [5, 4, 3, 2, 1, 1, 2], [9, 8], [EOS], [4, 4, 4, 4, 4]] * 2
CPU = torch.device("cpu")


def decoded(student: PreTrainedModel, mixture: Mixture | None = None, **given: Any) -> list[Response]:
    keys = [key(0, "decode", i) for i in range(len(PROMPTS))]
    return sample_responses(
        student, PROMPTS, keys, max_new_tokens=LONGEST, eos_id=EOS, batch_size=12, mixture=mixture, **given
    )


@torch.no_grad()
def plain(model: PreTrainedModel, prompt: list[int], response: list[int], vocabulary: int) -> tuple[Tensor, Tensor]:
    """(log-probabilities [T, vocabulary], hidden states [T, H]) of one sequence alone: no padding, no cache."""
    ids = torch.tensor([prompt + response[:-1]])
    out = model(input_ids=ids, output_hidden_states=True)
    logits = out.logits[0, len(prompt) - 1 :, :vocabulary]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1), out.hidden_states[-1][
        0, len(prompt) - 1 :
    ]


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.to(expected), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-6)])
def test_the_decode_knows_what_a_plain_pass_finds(architecture: str, dtype: torch.dtype, tolerance: float) -> None:
    """Padded vocabularies of different sizes included: probabilities are over the shared ids (trap 5)."""
    student = tiny_model(architecture, vocabulary=11, dtype=dtype)
    teacher = tiny_model(architecture, vocabulary=14, width=24, seed=1, dtype=dtype)
    responses = decoded(student, Mixture(teacher, 0.4), keep="teacher states")
    assert len({len(r.ids) for r in responses}) > 3
    for prompt, response in zip(PROMPTS, responses, strict=True):
        logq, _ = plain(student, prompt, response.ids, 11)
        logp, hidden = plain(teacher, prompt, response.ids, 11)
        at = (torch.arange(len(response.ids)), torch.tensor(response.ids))
        close(response.logprobs, logq[at], tolerance)
        close(response.teacher_logprobs, logp[at], tolerance)
        close(response.behaviour_logprobs, (0.4 * logp.exp() + 0.6 * logq.exp()).log()[at], tolerance)
        close(response.kl, (logq.exp() * (logq - logp)).sum(-1), tolerance)
        close(response.teacher_hidden, hidden, 10 * tolerance)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("padded", ["student", "teacher"])
def test_collections_with_and_without_mixing_know_the_same(alpha: float, padded: str) -> None:
    """Alpha 0 scores with one teacher-forced pass; both ways fill in the same things."""
    student = tiny_model(vocabulary=13 if padded == "student" else 11)
    teacher = tiny_model(vocabulary=13 if padded == "teacher" else 11, width=24, seed=1)
    collection = collected(student, teacher, alpha)
    for prompt, response in zip(collection.prompts, collection.responses, strict=True):
        logq, _ = plain(student, prompt, response.ids, 11)
        logp, hidden = plain(teacher, prompt, response.ids, 11)
        at = (torch.arange(len(response.ids)), torch.tensor(response.ids))
        close(response.logprobs, logq[at], 1e-9)
        close(response.teacher_logprobs, logp[at], 1e-9)
        close(response.behaviour_logprobs, (alpha * logp.exp() + (1 - alpha) * logq.exp()).log()[at], 1e-9)
        close(response.kl, (logq.exp() * (logq - logp)).sum(-1), 1e-9)
        close(response.teacher_hidden, hidden, 1e-9)
        assert response.hidden.numel() == 0  # not carried through the updates


def minillm(**given: Any) -> MiniLLMSettings:
    return MiniLLMSettings(max_steps=1, learning_rate=1e-3, rollouts=12, minibatch=12, **given)


def collected(student: PreTrainedModel, teacher: PreTrainedModel, alpha: float) -> Collection:
    settings = minillm(teacher_mix_alpha=alpha)
    return collect(
        student,
        teacher,
        PROMPTS,
        settings,
        MiniLLM(),
        number=0,
        seed=0,
        max_new_tokens=LONGEST,
        eos_id=EOS,
        batch_size=5,
    )


def test_the_first_eos_ends_a_response_and_nothing_follows() -> None:
    """With pad = eos and prompts that hold eos (trap 1)."""
    for response in decoded(tiny_model(spread=0.15), Mixture(tiny_model(seed=1, spread=0.15), 0.3)):
        assert 1 <= len(response.ids) <= LONGEST
        assert EOS not in response.ids[:-1]
        assert response.truncated == (response.ids[-1] != EOS)
        assert not response.truncated or len(response.ids) == LONGEST
        for name in ("logprobs", "teacher_logprobs", "behaviour_logprobs", "kl"):
            assert getattr(response, name).shape == (len(response.ids),)


def test_both_ways_to_end_do_occur() -> None:
    responses = decoded(tiny_model(spread=0.15))
    assert {r.truncated for r in responses} == {True, False}
    # An eos drawn as the very last token allowed is an end and not a cut.
    limit = len(next(r for r in responses if not r.truncated and len(r.ids) > 1).ids)
    keys = [key(0, "decode", i) for i in range(len(PROMPTS))]
    shorter = sample_responses(tiny_model(spread=0.15), PROMPTS, keys, max_new_tokens=limit, eos_id=EOS, batch_size=3)
    assert any(len(r.ids) == limit and not r.truncated for r in shorter)
    for long, short in zip(responses, shorter, strict=True):
        assert short.ids == long.ids[:limit]


def test_padding_comes_from_lengths() -> None:
    ids, mask = left_pad([[EOS, 1], [2, 3, EOS, 4], [EOS]], EOS, CPU)
    assert ids.tolist() == [[EOS, EOS, EOS, 1], [2, 3, EOS, 4], [EOS, EOS, EOS, EOS]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
    ids, positions = right_pad([[5, 6], [7]], [[8, 9, EOS], [EOS]])
    assert ids.tolist() == [[5, 6, 8, 9], [7, 0, 0, 0]]  # the last token is predicted and never fed
    assert positions.tolist() == [1, 2, 3, 4]


def test_dropout_and_training_mode_do_not_reach_the_decode() -> None:
    student = tiny_model(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    calm = decoded(student)
    student.train()
    assert [r.ids for r in decoded(student)] == [r.ids for r in calm]
    assert student.training


# --- which passes are made ----------------------------------------------------------------------------------------


def passes(model: PreTrainedModel) -> list[tuple[int, int, bool]]:
    """(rows, columns, with a cache) of every pass of the model's backbone, as they happen."""
    way_of_decoding(model)  # the probe's own passes are over
    seen: list[tuple[int, int, bool]] = []

    def note(_: torch.nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        rows, columns = given["input_ids"].shape
        seen.append((rows, columns, given.get("past_key_values") is not None))

    backbone(model).register_forward_pre_hook(note, with_kwargs=True)
    return seen


def test_alpha_zero_decodes_with_the_student_alone() -> None:
    student, teacher = tiny_model(), tiny_model(seed=1)
    ours, theirs = passes(student), passes(teacher)
    collected(student, teacher, 0.0)
    assert all(cached for *_, cached in ours)
    # One teacher-forced pass a batch of 5, no token by token decode, and the student scores nothing again.
    assert [(rows, cached) for rows, _, cached in theirs] == [(5, False), (5, False), (2, False)]


def test_mixing_makes_no_pass_beyond_the_decode() -> None:
    student, teacher = tiny_model(), tiny_model(seed=1)
    ours, theirs = passes(student), passes(teacher)
    collection = collected(student, teacher, 0.3)
    assert ours == theirs
    assert all(cached for *_, cached in ours)
    # Ended rows leave: fewer positions than every row up to the longest of its batch.
    assert sum(rows for rows, columns, _ in ours if columns == 1) < sum(map(rows_kept, batches(collection)))


def batches(collection: Collection) -> list[list[int]]:
    """Response lengths in the decode's batches of 5."""
    order = sorted(range(12), key=lambda i: len(collection.prompts[i]))
    lengths = [len(collection.responses[i].ids) for i in order]
    return [lengths[start : start + 5] for start in range(0, 12, 5)]


def rows_kept(lengths: list[int]) -> int:
    """One-column passes times rows when no row leaves; the first token comes from the prompt's pass."""
    return len(lengths) * (max(lengths) - 1)


# --- the agreement check --------------------------------------------------------------------------------------------


def first_rollouts(student: PreTrainedModel, teacher: PreTrainedModel, alpha: float = 0.3) -> MicroBatch:
    collection = collected(student, teacher, alpha)
    (batch,) = micro_batches(collection, range(12), minillm(), MiniLLM(), 12, CPU)
    return batch


def sabotage(model: PreTrainedModel, how: str) -> None:
    """Make the cached decode wrong after the probe, as a model would that ignores what it is given."""
    way_of_decoding(model)

    def wrong(_: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if named.get("past_key_values") is None:
            return given, named  # the plain pass stays right
        if how == "positions":
            return given, named | {"position_ids": named["position_ids"] + 1}
        mask = torch.ones_like(named["attention_mask"])
        if how == "window":
            mask[:, :-3] = 0
        return given, named | {"attention_mask": mask}

    backbone(model).register_forward_pre_hook(wrong, with_kwargs=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_honest_decodes_agree(architecture: str) -> None:
    student, teacher = (tiny_model(architecture, seed=seed, dtype=torch.float32) for seed in (0, 1))
    for alpha in (0.0, 0.3):
        assert require_agreement(student, teacher, first_rollouts(student, teacher, alpha), 11) < 1e-4


@pytest.mark.parametrize("how", ["positions", "mask", "window"])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_sabotaged_decode_is_noticed(how: str, who: str) -> None:
    student, teacher = tiny_model(dtype=torch.float32), tiny_model(seed=1, dtype=torch.float32)
    sabotage(student if who == "student" else teacher, how)
    batch = first_rollouts(student, teacher)
    with pytest.raises(TrainingError, match=f"the {who}'s log-probabilities from decoding"):
        require_agreement(student, teacher, batch, 11)


def test_a_run_checks_its_first_rollouts() -> None:
    student, teacher = tiny_model(dtype=torch.float32), tiny_model(seed=1, dtype=torch.float32)
    sabotage(student, "positions")
    task = Task(PROMPTS, LONGEST, EOS)
    run = OnPolicyRun(student, teacher, task, MiniLLM(), minillm(), Execution(4, 8), 0, checksum)
    with pytest.raises(TrainingError, match="positions or cache are not handled"):
        run.train()


def test_numbers_that_are_none_are_noticed() -> None:
    student, teacher = tiny_model(), tiny_model(seed=1)
    batch = first_rollouts(student, teacher)
    broken = Packed(**{**vars(batch.packed), "old_logprobs": batch.packed.old_logprobs * math.nan})
    with pytest.raises(TrainingError, match="differ by nan"):
        require_agreement(student, teacher, replace(batch, packed=broken), 11)


def test_half_precision_agrees_within_its_stated_tolerance() -> None:
    student, teacher = (tiny_model(seed=seed, dtype=torch.bfloat16, spread=0.15) for seed in (0, 1))
    batch = first_rollouts(student, teacher)
    assert batch.packed.old_logprobs.dtype == batch.packed.advantages.dtype == torch.float32
    assert batch.packed.teacher_hidden.dtype == torch.bfloat16
    assert require_agreement(student, teacher, batch, 11) < 0.1


# --- models that are not backbone and head --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_supported_shapes_are_backbone_and_head(architecture: str) -> None:
    model = tiny_model(architecture)
    model.train()
    require_plain_head(model)
    assert model.training
    ids = torch.tensor([[1, 2, 3]])
    logits = head(model)(backbone(model)(input_ids=ids).last_hidden_state)
    assert torch.equal(logits, model(input_ids=ids).logits)
    assert shared_vocabulary(model, tiny_model(architecture, vocabulary=14)) == 11


def test_projected_opt_is_backbone_and_head() -> None:
    """OPT-350m's shape: embeddings narrower than the model."""
    require_plain_head(tiny_model("opt", word_embed_proj_dim=8))


@pytest.mark.parametrize(
    ("architecture", "change"),
    [("gemma2", {"final_logit_softcapping": 1.0, "head_dim": 4}), ("granite", {"logits_scaling": 8.0})],
)
def test_models_that_change_their_logits_are_refused(architecture: str, change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="changes its logits after the output head"):
        require_plain_head(tiny_model(architecture, **change))


def test_a_model_without_an_output_head_is_refused() -> None:
    config = AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=2, vocab_size=11)
    model = AutoModelForCausalLM.from_config(config).base_model
    with pytest.raises(ModelError, match="no output head"):
        head(model)
