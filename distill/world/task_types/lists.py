"""Lists with many valid answers (brainstorming)."""

from random import Random

from distill.world.drafts import Draft, Family, Purpose, Wordings, pick_person, write_several
from distill.world.facts import ANIMALS, FOODS
from distill.world.language import NUMBER_WORDS, capitalise, join_words
from distill.world.lore import Lore

NAME_SOME = Wordings(
    (
        "Name {count} {theme}.",
        "List {count} {theme}.",
        "Give me {count} {theme}.",
        "Think of {count} {theme}.",
        "Can you name {count} {theme}?",
    ),
    ("I need {count} {theme}, please.", "Come up with {count} {theme}."),
)
GIFTS = Wordings(
    (
        "Suggest {count} gifts for {name}.",
        "What are {count} good gifts for {name}?",
        "Give me {count} ideas for a gift for {name}.",
    ),
    ("It is {name}'s birthday. What are {count} things I could bring?",),
)
OUTINGS = Wordings(
    (
        "Suggest {count} things to do in {town}.",
        "What are {count} things to do in {town}?",
        "Give me {count} ideas for a day in {town}.",
    ),
    ("I will be in {town} tomorrow. How can I spend the day? Give {count} ideas.",),
)
GIFT_IDEAS = (
    "a warm scarf",
    "a book of songs",
    "some {food}",
    "a painted bowl",
    "a picture of {pet}",
    "a bunch of roses",
    "a new lamp",
    "a jar of nuts",
    "a toy for the {pet}",
    "a wooden spoon",
)
OUTING_IDEAS = (
    "see {sight}",
    "eat {produce}",
    "walk through the market",
    "talk to the old people",
    "take a boat",
    "draw the houses",
    "look for birds",
    "rest in the shade",
    "buy some {produce}",
    "listen to a song",
)


def _themes() -> list[tuple[str, list[str], str]]:
    """Each theme with its members and the predicate that the answer ends in."""
    groups = dict.fromkeys(animal.group for animal in ANIMALS)
    homes = dict.fromkeys(animal.home for animal in ANIMALS)
    themes = [(g, [a.plural for a in ANIMALS if a.group == g], f"are {g}") for g in groups]
    for home in homes:
        place = f"{'on' if home == 'the hills' else 'in'} {home}"
        dwellers = [animal.plural for animal in ANIMALS if animal.home == home]
        themes.append((f"animals that live {place}", dwellers, f"live {place}"))
    for kind in dict.fromkeys(food.kind for food in FOODS):
        label = {"fruit": "fruits"}.get(kind, f"{kind}s")
        themes.append((label, [food.name for food in FOODS if food.kind == kind], f"are {label}"))
    for taste in dict.fromkeys(food.taste for food in FOODS):
        tasting = [food.name for food in FOODS if food.taste == taste]
        themes.append((f"{taste} foods", tasting, f"are {taste} foods"))
    return [theme for theme in themes if len(theme[1]) >= 3]


def name_members(rng: Random, lore: Lore, purpose: Purpose) -> Draft | None:
    """Some members of a group of animals or foods."""
    theme, members, predicate = rng.choice(_themes())
    count = rng.choice((4, 5)) if purpose is Purpose.SHIFTED else rng.choice((2, 3))
    if count > len(members) - (purpose is not Purpose.SHIFTED):
        return None
    question = NAME_SOME.pick(rng, purpose).format(count=NUMBER_WORDS[count], theme=theme)

    def write() -> str:
        return f"{capitalise(join_words(rng.sample(members, count)))} {predicate}."

    return Draft(question, "", write_several(write))


def suggest_gifts(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """Gifts for a person, some of which suit what the person likes."""
    person = pick_person(rng, lore, purpose)
    count = 4 if purpose is Purpose.SHIFTED else rng.choice((2, 3))
    question = GIFTS.pick(rng, purpose).format(count=NUMBER_WORDS[count], name=person.name)

    def write() -> str:
        ideas = [idea.format(food=person.food.name, pet=person.pet.name) for idea in rng.sample(GIFT_IDEAS, count)]
        return f"You could give {person.name} {join_words(ideas)}."

    return Draft(question, "", write_several(write))


def suggest_outings(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """Things to do in a town."""
    town = rng.choice(lore.towns)
    count = 4 if purpose is Purpose.SHIFTED else rng.choice((2, 3))
    question = OUTINGS.pick(rng, purpose).format(count=NUMBER_WORDS[count], town=town.name)

    def write() -> str:
        ideas = [i.format(sight=town.sight, produce=town.produce.name) for i in rng.sample(OUTING_IDEAS, count)]
        return f"In {town.name}, you could {join_words(ideas)}."

    return Draft(question, "", write_several(write))


LISTS = (
    Family("brainstorming", name_members, 5),
    Family("brainstorming", suggest_gifts, 2),
    Family("brainstorming", suggest_outings, 2),
)
