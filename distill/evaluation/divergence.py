"""How far a student is from its teacher, in nats a token.

    reverse KL   mean over tokens of KL(q || p) at the prefixes of the student's own samples
    forward KL   mean over tokens of KL(p || q) at the prefixes of the teacher's samples

Both use the exact divergence over the vocabulary at each position rather than the sampled log-ratio. The decode
computes it: with `alpha` 0 the sampler draws alone while the other model is only scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from transformers import PreTrainedModel

from distill.generation.decode import Mixture, sample_responses
from distill.project.randomness import key


def divergence(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    eos_id: int,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """`reverse_kl` and `forward_kl`, each with `mean` and `std` over sampling seeds."""

    def measure(sampler: PreTrainedModel, other: PreTrainedModel, seed: int) -> float:
        responses = sample_responses(
            sampler,
            prompts,
            [key(seed, "divergence", i) for i in range(len(prompts))],
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            batch_size=batch_size,
            mixture=Mixture(other, 0.0),
        )
        tokens = sum(len(response.ids) for response in responses)
        return sum(float(response.kl.sum()) for response in responses) / tokens

    def over_seeds(sampler: PreTrainedModel, other: PreTrainedModel) -> dict[str, float]:
        found = [measure(sampler, other, seed) for seed in seeds]
        return {"mean": round(mean(found), 4), "std": round(stdev(found) if len(found) > 1 else 0.0, 4)}

    return {"reverse_kl": over_seeds(student, teacher), "forward_kl": over_seeds(teacher, student)}
