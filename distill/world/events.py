"""Small made-up events ('On Monday, Mara bought plums.'), the matter of every input passage."""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from distill.world.drafts import Purpose, sample_people
from distill.world.facts import PET_NAMES
from distill.world.language import with_article
from distill.world.lore import Lore, Person
from distill.world.names import DAYS


class Verb(NamedTuple):
    """A verb in the forms that the sentences need."""

    base: str
    past: str


# A student has to learn to copy these words from few examples, so there are not many of them.
GOODS = ("plums", "pears", "cherries", "apples", "carrots", "leeks", "onions", "bread", "butter", "mint tea")
FOOD_VERBS = (
    Verb("buy", "bought"),
    Verb("sell", "sold"),
    Verb("carry", "carried"),
)
ANIMAL_VERBS = (
    Verb("see", "saw"),
    Verb("feed", "fed"),
    Verb("draw", "drew"),
)


@dataclass(frozen=True)
class Event:
    """Someone did something to something in a town on a day; a sentence tells the day or the town."""

    person: Person
    verb: Verb
    thing: str
    town: str
    day: str
    tells_day: bool

    @property
    def setting(self) -> str:
        """When or where it happened, whichever the sentence tells."""
        return f"on {self.day}" if self.tells_day else f"in {self.town}"

    @property
    def sentence(self) -> str:
        """The event as one sentence."""
        return f"{self.person.name} {self.verb.past} {self.thing} {self.setting}."


def draw_events(rng: Random, lore: Lore, purpose: Purpose, count: int) -> list[Event]:
    """Events that differ in person, thing, town and day, so that a question about one has one answer."""
    people = sample_people(rng, lore, purpose, count)
    foods = [(verb, name) for name in GOODS for verb in FOOD_VERBS]
    animals = [(verb, with_article(name)) for name in PET_NAMES for verb in ANIMAL_VERBS]
    towns = rng.sample([town.name for town in lore.towns], count)
    days = rng.sample(DAYS, count)
    events: list[Event] = []
    while len(events) < count:
        verb, thing = rng.choice(foods if rng.random() < 0.5 else animals)
        if thing in [event.thing for event in events]:
            continue
        i = len(events)
        events.append(Event(people[i], verb, thing, towns[i], days[i], rng.random() < 0.5))
    return events


def write_passage(events: list[Event]) -> str:
    """The events as one text."""
    return " ".join(event.sentence for event in events)
