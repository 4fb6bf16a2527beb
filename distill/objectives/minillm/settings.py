"""Every choice of MiniLLM's formula as a setting of its own, and three presets over them.

`preset` fills in what is not written out; what is written out wins. `paper` follows the equations of
arXiv 2306.08543, `reference` what the authors' released code computes, `default` what our trials favour
(docs/paper_against_here.md lists the differences and the evidence).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.on_policy.settings import OnPolicySettings
from distill.project.settings import Settings

PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        # Same mean as the drawn token's reward with less variance; the single step has the own token's gradient.
        "rewards": "expected",
        "reward_scale": 1.0,
        "reward_clip": None,
        "return_from": "current",
        "discount": 0.95,
        "length_norm": True,
        "whiten": "tokens",
        "importance_weight": True,
        "clip_form": "sign_aware",
        "single_step": True,
        "single_step_weighted": False,
        "normalise": "tokens",
        "lm_kd_ratio": 0.0,
    },
    "paper": {
        "rewards": "sampled",
        "reward_scale": 1.0,
        "reward_clip": None,
        "return_from": "next",
        # Eq. 3 sums later rewards with equal weights.
        "discount": 1.0,
        "length_norm": True,
        "whiten": "none",
        "importance_weight": True,
        "clip_form": "paper",
        "single_step": True,
        # Prefixes come from p~, not q: the printed w_t stands for the correction, which the reference leaves out.
        "single_step_weighted": True,
        "normalise": "sequences",
        "lm_kd_ratio": 0.0,
    },
    "reference": {
        "rewards": "sampled",
        # Divides, so that rewards are doubled; whitening takes the factor out again, but for the clip.
        "reward_scale": 0.5,
        "reward_clip": 100.0,
        "return_from": "current",
        "discount": 0.95,
        "length_norm": True,
        "whiten": "grid",
        "importance_weight": True,
        "clip_form": "sign_aware",
        "single_step": True,
        "single_step_weighted": False,
        "normalise": "tokens",
        "lm_kd_ratio": 0.5,
    },
}


class ObjectiveSettings(Settings):
    """MiniLLM's formula: rewards, returns, the two loss terms."""

    preset: Literal["default", "paper", "reference"] = "default"
    """Fills in every setting that belongs to the formula and is not written out."""
    teacher_mix_alpha: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the teacher in the sampling distribution (Eq. 4); 0 samples from the student alone, 1 the teacher."""

    # Rewards and returns (Eqs. 3 and 6).
    rewards: Literal["sampled", "expected"]
    """r_t' of the drawn token, or its expectation under q at that prefix, -KL(q||p) (Rao-Blackwell)."""
    baseline: Literal["none", "closed_form"] = "none"
    """Subtract E[r_t] = -KL(q||p) from the own reward; for sampled rewards with `return_from: current`."""
    reward_scale: Annotated[float, Field(gt=0)]
    """Rewards are divided by this."""
    reward_clip: Annotated[float, Field(gt=0)] | None
    """Then clipped to plus or minus this; null leaves them."""
    return_from: Literal["next", "current"]
    """Sum from R_{t+1} as in the paper, or from r_t itself as the reference does."""
    discount: Annotated[float, Field(ge=0, le=1)]
    """gamma^(t'-t); 1 is no discount."""
    length_norm: bool
    """Divide each return by the number of rewards it sums (Eq. 6)."""
    whiten: Literal["none", "tokens", "grid"]
    """Standardise returns over valid tokens, or over the padded grid with its zeros as the reference does."""

    # The two loss terms (Eqs. 5 and 7).
    policy_gradient: bool = True
    """Use the long-term term; false leaves single-step reverse KL on own samples, an honest control."""
    importance_weight: bool
    """Ratio against the mixture, q/p~; false takes q/q_old as if the student alone had sampled."""
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """epsilon of the clipped ratio."""
    clip_form: Literal["sign_aware", "paper"]
    """max(-A rho, -A clip(rho)) as the reference does, or -A min(rho, clip(rho)) as printed."""
    single_step: bool
    """Use the exact one-step term, KL(q||p) over the vocabulary at each position."""
    single_step_weighted: bool
    """Multiply that term by w_t = q/p~."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        # An unknown preset is one fault, not also a missing value for each setting it would have filled in.
        preset = PRESETS.get(str(given.get("preset")), PRESETS["default"])
        # Filtered: a preset fills in `normalise` and `lm_kd_ratio` too, which the formula alone lacks. The given wins.
        return {**{name: value for name, value in preset.items() if name in cls.model_fields}, **given}

    @model_validator(mode="after")
    def _sound_formula(self) -> ObjectiveSettings:
        if not (self.policy_gradient or self.single_step):
            raise ValueError("`policy_gradient` and `single_step` are both off, so nothing is trained; turn one on")
        # -KL(q||p) at t is fixed by the prefix, and E_{y~q}[grad log q(y)] = 0: its product has no gradient on average.
        expects_own = self.rewards == "expected" and self.return_from == "current"
        if self.policy_gradient and expects_own and not self.single_step:
            raise ValueError(
                "expected rewards with `return_from: current` carry no gradient of the own token; without "
                "`single_step` that part would be lost: turn `single_step` on or use `rewards: sampled`"
            )
        # R_{t+1} starts after t, so that r_t is in no term but the single step.
        if self.policy_gradient and self.return_from == "next" and not self.single_step:
            raise ValueError(
                "`return_from: next` leaves the own reward r_t to the single step; without `single_step` it would be "
                "lost: turn `single_step` on or use `return_from: current`"
            )
        # It is the mean of r_t: an own expected reward would cancel to 0, and a return without r_t would gain a term.
        if self.baseline == "closed_form" and (self.rewards, self.return_from) != ("sampled", "current"):
            raise ValueError("`baseline: closed_form` needs `rewards: sampled` and `return_from: current`")
        # `own_share` stands among the settings of training on own samples, in the same section.
        if self.policy_gradient and getattr(self, "own_share", 1) < 1:
            raise ValueError("a policy gradient needs responses that were sampled; set `own_share: 1`")
        if self.baseline == "closed_form" and not self.policy_gradient:
            raise ValueError("`baseline` is of the long term, which `policy_gradient: false` leaves out; remove it")
        return self


class MiniLLMSettings(ObjectiveSettings, OnPolicySettings):
    """A whole section: MiniLLM's formula and its training on own samples."""
