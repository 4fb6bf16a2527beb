"""The workload for measuring a MiniLLM cycle: two random models of GPT-2's shape and random prompts.

The models' final bias points at the end-of-sequence token, so that responses end after a geometric number of tokens
and are a third of the limit long on average, so that padding and stragglers cost as much as in practice.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from distill.objectives.minillm.settings import MiniLLMSettings

END = 0
# Lengths that end by chance at each token and are cut at the limit L average L / 3 at a chance of 2.82 / L.
_ENDS_A_LIMIT = 2.82

# For tables of many cycles: about an eighth of the work a token.
SMALL_MODELS: dict[str, Any] = {"vocabulary": 2048, "student": (2, 128), "teacher": (4, 256)}


@dataclass(frozen=True)
class Workload:
    """Sizes of a cycle. The defaults are what docs/cost.md calls W."""

    vocabulary: int = 8192
    prompt_tokens: int = 64
    response_tokens: int = 128
    """The limit."""
    rollouts: int = 64
    minibatch: int = 16
    student: tuple[int, int] = (4, 256)
    """Layers and width; heads are 64 wide."""
    teacher: tuple[int, int] = (8, 512)
    seed: int = 1

    def models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        """(student, teacher) with random weights, the same ones on every call."""
        return self._model(self.student, self.seed), self._model(self.teacher, self.seed + 1)

    def prompts(self) -> list[list[int]]:
        """One prompt of random tokens for each rollout."""
        draw = random.Random(self.seed)
        return [draw.choices(range(END + 1, self.vocabulary), k=self.prompt_tokens) for _ in range(self.rollouts)]

    def settings(self, cycles: int = 1) -> MiniLLMSettings:
        """The reference's formula, 4 inner epochs and alpha 0.2, for so many collections."""
        steps = 4 * self.rollouts // self.minibatch
        return MiniLLMSettings.model_validate(
            {
                "preset": "reference",
                "rollouts": self.rollouts,
                "minibatch": self.minibatch,
                "max_steps": cycles * steps,
                "learning_rate": 5e-6,
                "evaluate_every": cycles * steps,
            }
        )

    def _model(self, shape: tuple[int, int], seed: int) -> PreTrainedModel:
        layers, width = shape
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=self.vocabulary,
            n_positions=2 * (self.prompt_tokens + self.response_tokens),
            n_layer=layers,
            n_embd=width,
            n_head=max(1, width // 64),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=END,
            eos_token_id=END,
        )
        model = GPT2LMHeadModel(config).eval()
        towards_end = torch.nn.functional.normalize(torch.randn(width), dim=0)
        with torch.no_grad():
            # A long bias against a short embedding: the end's logit hardly depends on the rest of the state.
            model.transformer.ln_f.bias.copy_(20 * towards_end)
            logit = math.log(self.vocabulary * _ENDS_A_LIMIT / self.response_tokens)
            model.transformer.wte.weight[END] = logit / 20 * towards_end
        return cast(PreTrainedModel, model)
