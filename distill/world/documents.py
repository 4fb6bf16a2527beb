"""Plain-text documents of the toy world, for pre-training."""

from random import Random

from distill.world.crafts import CRAFTS
from distill.world.drafts import Purpose
from distill.world.events import draw_events, write_passage
from distill.world.facts import ANIMALS, FOODS
from distill.world.language import capitalise, join_words, with_article
from distill.world.lore import Lore
from distill.world.task_types.long_answers import describe_town, explain_craft, tell_story
from distill.world.task_types.open_questions import describe_food
from distill.world.task_types.person_questions import PERSON_TOPICS
from distill.world.task_types.rewrites import write_portrait


def _write_portrait(rng: Random, lore: Lore) -> str:
    person = rng.choice(lore.people + lore.strangers)
    topics = rng.sample([topic for topic in PERSON_TOPICS if topic != "trait"], rng.choice((2, 3, 4)))
    # Portraits to summarize never tell the trait: told early here, it keeps test passages out.
    topics.insert(rng.randrange(3), "trait")
    return write_portrait(person, topics)


def _write_town(rng: Random, lore: Lore) -> str:
    town = rng.choice(lore.towns)
    people = [person.name for person in lore.people if person.town == town]
    inhabitants = f" {join_words(people)} {'live' if len(people) > 1 else 'lives'} there." if people else ""
    draft = describe_town(rng, lore, Purpose.KNOWN)
    return draft.answers[0] if rng.random() < 0.5 else f"{town.name} lies {town.place}.{inhabitants}"


def _write_craft(rng: Random, lore: Lore) -> str:
    craft = rng.choice(CRAFTS)
    worker = with_article(craft.name)
    tools = join_words([with_article(tool) for tool in craft.tools])
    draft = explain_craft(rng, lore, Purpose.KNOWN)
    if draft is not None and rng.random() < 0.5:
        return draft.answers[0]
    return f"{capitalise(worker)} works in {craft.workplace} and makes {craft.product}. The tools are {tools}."


def _write_animals(rng: Random, lore: Lore) -> str:
    sentences = []
    for animal in rng.sample(ANIMALS, 2):
        place = f"{'on' if animal.home == 'the hills' else 'in'} {animal.home}"
        name = capitalise(animal.plural)
        sentences.append(f"{name} are {animal.group} and live {place}. They eat {animal.diet} and can {animal.skill}.")
    return " ".join(sentences)


def _write_foods(rng: Random, lore: Lore) -> str:
    foods = rng.sample(FOODS, 3)
    return " ".join(
        f"{capitalise(food.name)} {describe_food(food, rng.choice(('taste', 'colour', 'kind')))}." for food in foods
    )


def _write_story(rng: Random, lore: Lore) -> str:
    draft = tell_story(rng, lore, Purpose.KNOWN)
    return draft.answers[0] if draft is not None else _write_diary(rng, lore)


def _write_diary(rng: Random, lore: Lore) -> str:
    return write_passage(draw_events(rng, lore, Purpose.KNOWN, rng.choice((3, 4, 5))))


WRITERS = (
    _write_portrait,
    _write_portrait,
    _write_portrait,
    _write_town,
    _write_craft,
    _write_animals,
    _write_foods,
    _write_story,
    _write_diary,
    _write_diary,
)


def write_document(rng: Random, lore: Lore) -> str:
    """One document of a few sentences, at times of two unlike parts."""
    parts = rng.sample(WRITERS, rng.choice((1, 1, 2)))
    return " ".join(write(rng, lore) for write in parts)
