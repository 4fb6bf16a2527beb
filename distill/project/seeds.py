"""Seeds as settings give them: whole numbers that every library takes, each once."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from pydantic import AfterValidator, Field

from distill.project.settings import Settings

Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
"""Strict: `true` and `1.0` are mistakes, not 1. NumPy takes no seed from 2^32 on."""


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    # The same seed draws the same answers again: a spread over them would be 0 without meaning it.
    if repeated := [str(seed) for seed, times in Counter(seeds).items() if times > 1]:
        raise ValueError(f"seed {', '.join(repeated)} stands there more than once, and would draw the same again")
    return seeds


Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_each_once)]
"""Different ones, at least one."""


class SeedSetting(Settings):
    """The one `seed` of params.yaml, where nothing else of it is needed."""

    seed: Seed
