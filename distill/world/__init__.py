"""The embedded toy data: an instruction corpus and documents over a small invented world."""

from distill.world.build import World, WorldSettings, build_world
from distill.world.drafts import ToyRow

__all__ = ["ToyRow", "World", "WorldSettings", "build_world"]
