"""The seeded relations of the toy world: who lives where, does what and keeps which animal."""

from dataclasses import dataclass
from random import Random
from zlib import crc32

from distill.world.crafts import CRAFTS, Craft
from distill.world.facts import ANIMALS, FESTIVALS, FOODS, PET_NAMES, TOWN_SITES, Animal, Festival, Food
from distill.world.names import HELD_OUT_MEN, HELD_OUT_WOMEN, MEN, PASTIMES, TRAITS, WOMEN


@dataclass(frozen=True)
class Town:
    """One town with its fixed site and its seeded produce and festival."""

    name: str
    place: str
    sight: str
    produce: Food
    festival: Festival


@dataclass(frozen=True)
class Person:
    """One inhabitant and everything there is to know about them."""

    name: str
    feminine: bool
    town: Town
    craft: Craft
    pet: Animal
    food: Food
    pastime: str
    trait: str

    @property
    def pronoun(self) -> str:
        """'she' or 'he'."""
        return "she" if self.feminine else "he"

    @property
    def possessive(self) -> str:
        """'her' or 'his'."""
        return "her" if self.feminine else "his"


@dataclass(frozen=True)
class Lore:
    """All towns and people of one seed; `strangers` are kept out of training."""

    towns: tuple[Town, ...]
    people: tuple[Person, ...]
    strangers: tuple[Person, ...]


def draw_lore(seed: int) -> Lore:
    """Draw the relations of the world for one seed."""
    rng = Random(f"{seed}/lore")
    festivals = [FESTIVALS[i % len(FESTIVALS)] for i in range(len(TOWN_SITES))]
    rng.shuffle(festivals)
    produce = rng.sample(FOODS, len(TOWN_SITES))
    towns = tuple(
        Town(site.name, site.place, site.sight, food, festival)
        for site, food, festival in zip(TOWN_SITES, produce, festivals, strict=True)
    )
    people = [_draw_person(rng, towns, name, name in WOMEN) for name in sorted(WOMEN + MEN)]
    strangers = [
        _draw_person(rng, towns, name, name in HELD_OUT_WOMEN) for name in sorted(HELD_OUT_WOMEN + HELD_OUT_MEN)
    ]
    return Lore(towns, tuple(people), tuple(strangers))


def _draw_person(rng: Random, towns: tuple[Town, ...], name: str, feminine: bool) -> Person:
    pets = [animal for animal in ANIMALS if animal.name in PET_NAMES]
    return Person(
        name=name,
        feminine=feminine,
        town=rng.choice(towns),
        craft=rng.choice(CRAFTS),
        pet=rng.choice(pets),
        food=rng.choice(FOODS),
        pastime=rng.choice(PASTIMES),
        trait=rng.choice(TRAITS),
    )


def is_held_out(*parts: str) -> bool:
    """Whether a combination (a person and a topic, two topics, ...) is kept for the shifted test set."""
    return crc32("+".join(parts).encode()) % 6 == 0
