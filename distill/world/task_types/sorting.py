"""Sorting tasks: give the class of words or the mood of a text (classification)."""

from random import Random

from distill.world.crafts import CRAFTS
from distill.world.drafts import Draft, Family, Purpose, Wordings, pick_person
from distill.world.facts import ANIMALS, FESTIVALS, FOODS
from distill.world.language import capitalise, join_words
from distill.world.lore import Lore

SORT = Wordings(
    (
        "Is each of these an animal, a food, or a tool: {items}?",
        "Sort into animal, food, and tool: {items}.",
        "Say for each word whether it is an animal, a food, or a tool: {items}.",
        "Classify as animal, food, or tool: {items}.",
    ),
    (
        "Put a label (animal, food, tool) on every word: {items}.",
        "Animal, food, or tool? Decide for each of these: {items}.",
    ),
)
GROUP = Wordings(
    (
        "Which of these are {group}: {items}?",
        "Pick the {group} from this list: {items}.",
        "Find all {group} among these animals: {items}.",
    ),
    ("Only {group}, please: {items}.",),
)
MOOD = Wordings(
    (
        "Is the mood of the text happy, sad, or angry?",
        "Classify the mood of this text.",
        "How does the person feel?",
        "Name the feeling in the text: happy, sad, or angry.",
    ),
    ("Which emotion fits this text?", "Happy, sad, or angry? Judge the text."),
)
SEASON = Wordings(
    (
        "In which season do these take place: {items}?",
        "Sort these festivals by season: {items}.",
        "Classify each festival by its season: {items}.",
    ),
    ("Match every festival with a season: {items}.",),
)
MOODS = {
    "happy": (
        "{name} danced through the streets of {town}",
        "{name} won a prize at the fair in {town}",
        "{name} laughed all the way home",
        "{name} sang a cheerful song by the fire",
    ),
    "sad": (
        "{name} sat alone and wept",
        "{name} lost a dear friend in {town}",
        "{name} looked at the rain and sighed",
        "{name} had to leave {town} for ever",
    ),
    "angry": (
        "{name} shouted at the whole market",
        "{name} slammed the door of the house in {town}",
        "{name} threw the broken cup at the wall",
        "{name} called the mayor of {town} a thief",
    ),
}
MOOD_CAUSES = {
    "happy": ("because the sun was out", "because an old friend came back", "after the best day of the year"),
    "sad": (
        "because the harvest was lost",
        "because an old friend was gone",
        "after the worst day of the year",
    ),
    "angry": (
        "because someone had told a lie",
        "because the cart was stolen",
        "after a long and unfair quarrel",
    ),
}


def _count_items(rng: Random, purpose: Purpose) -> int:
    return 5 if purpose is Purpose.SHIFTED else rng.choice((2, 3, 4))


def sort_words(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """Label a few words as animal, food or tool."""
    tools = [tool for craft in CRAFTS for tool in craft.tools]
    labelled = [(animal.name, "animal") for animal in ANIMALS]
    labelled += [(food.name, "food") for food in FOODS] + [(tool, "tool") for tool in dict.fromkeys(tools)]
    items = rng.sample(labelled, _count_items(rng, purpose))
    question = SORT.pick(rng, purpose).format(items=", ".join(word for word, _ in items))
    answer = ", ".join(f"{word}: {label}" for word, label in items)
    return Draft(question, "", (f"{capitalise(answer)}.",))


def pick_group(rng: Random, lore: Lore, purpose: Purpose) -> Draft | None:
    """Pick the members of one animal group from a list."""
    animals = rng.sample(ANIMALS, 6 if purpose is Purpose.SHIFTED else rng.choice((3, 4)))
    group = rng.choice(animals).group
    members = [animal.plural for animal in animals if animal.group == group]
    if len(members) == len(animals):
        return None
    items = ", ".join(animal.plural for animal in animals)
    answer = f"{capitalise(join_words(members))} are {group}."
    return Draft(GROUP.pick(rng, purpose).format(group=group, items=items), "", (answer,))


def judge_mood(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """Say how the person of a one-sentence text feels, and why."""
    mood, person = rng.choice(tuple(MOODS)), pick_person(rng, lore, purpose)
    deed = rng.choice(MOODS[mood]).format(name=person.name, town=rng.choice(lore.towns).name)
    cause = rng.choice(MOOD_CAUSES[mood])
    return Draft(MOOD.pick(rng, purpose), f"{deed} {cause}.", (f"{person.name} is {mood} {cause}.",))


def sort_festivals(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """Give the season of a few festivals."""
    festivals = rng.sample(FESTIVALS, _count_items(rng, purpose) - (purpose is Purpose.SHIFTED))
    items = ", ".join(festival.name for festival in festivals)
    answer = ", ".join(f"{festival.name}: {festival.season}" for festival in festivals)
    return Draft(SEASON.pick(rng, purpose).format(items=items), "", (f"{capitalise(answer)}.",))


SORTING = (
    Family("classification", sort_words, 3),
    Family("classification", pick_group, 4),
    Family("classification", judge_mood, 3),
    Family("classification", sort_festivals, 1, shifts=False),
)
