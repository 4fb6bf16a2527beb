"""Tasks with answers of several sentences: explanations (general_qa) and small texts (creative_writing)."""

from random import Random

from distill.world.crafts import CRAFTS
from distill.world.drafts import Draft, Family, Purpose, Wordings, pick_person, write_several
from distill.world.facts import ANIMALS
from distill.world.language import capitalise, with_article
from distill.world.lore import Lore, is_held_out
from distill.world.task_types.person_questions import PERSON_TOPICS
from distill.world.task_types.rewrites import write_portrait

PLAN = Wordings(
    (
        "How does {craft} make {product}?",
        "Explain step by step how to make {product}.",
        "How are {product} made?",
        "Write a plan for making {product}.",
        "What are the steps for making {product}?",
    ),
    ("Teach me to make {product}.", "I want to try the work of {craft}. How do I begin and end?"),
)
PORTRAIT = Wordings(
    (
        "Tell me about {name}.",
        "Who is {name}?",
        "Describe {name}.",
        "Write a few sentences about {name}.",
        "What do you know about {name}?",
    ),
    ("Introduce {name} to a stranger.", "Please tell me more about {name}."),
)
GUIDE = Wordings(
    (
        "Tell me about {town}.",
        "Describe the town of {town}.",
        "What kind of town is {town}?",
        "Write a few sentences about {town}.",
    ),
    ("Describe {town} for a traveller.",),
)
STORY = Wordings(
    (
        "Write a story about {name} and {animal}.",
        "Tell me a short story about {name} and {animal}.",
        "Make up a tale in which {name} meets {animal}.",
        "Invent a story with {name} and {animal}.",
    ),
    (
        "Please think of a short tale about {name} and {animal}.",
        "Can you tell a story of how {name} met {animal}?",
    ),
)
LETTER = Wordings(
    (
        "Write an invitation to {festival} in {town}.",
        "Invite a friend to {festival} in {town}.",
        "Write a short letter about {festival} in {town}.",
    ),
    ("Compose a note that invites someone to {festival} in {town}.",),
)
RHYME = Wordings(
    (
        "Write a short poem about {animal}.",
        "Write a few lines of verse about {animal}.",
        "Make a little song about {animal}.",
    ),
    ("Compose some verse on {animal}.",),
)
BEGINNINGS = ("One cold morning", "One fine day", "Late one evening")
PROBLEMS = (
    "It was lost and hungry",
    "It was weak and tired",
    "It was caught in a net",
    "It was afraid of the storm",
)
ENDINGS = (
    "From that day on, they were friends",
    "The next day, it came back with a shiny stone",
    "Soon the whole town knew the story",
    "They never forgot that day",
)
CHEERS = ("It will be a day to remember", "Bring your friends and a good mood", "I can hardly wait")


def explain_craft(rng: Random, lore: Lore, purpose: Purpose) -> Draft | None:
    """The four steps of a craft."""
    craft = rng.choice(CRAFTS)
    wording = PLAN.pick(rng, purpose)
    if wording.startswith("How are") and not craft.product.endswith("s"):
        return None
    question = wording.format(craft=with_article(craft.name), product=craft.product)
    one, two, three, four = craft.steps

    def write() -> str:
        links = rng.choice((("Then", "After that,", "Finally,"), ("Next,", "Then", "In the end,")))
        return f"First, {one}. {links[0]} {two}. {links[1]} {three}. {links[2]} {four}."

    return Draft(question, "", write_several(write))


def describe_person(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """What there is to know about a person; four of the six facts, so that several answers are valid."""
    person = rng.choice(lore.people)
    question = PORTRAIT.pick(rng, purpose).format(name=person.name)

    def write() -> str:
        rest = sorted(rng.sample(range(2, len(PERSON_TOPICS)), 2))
        return write_portrait(person, ["town", "craft"] + [PERSON_TOPICS[i] for i in rest])

    return Draft(question, "", write_several(write))


def describe_town(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """What there is to know about a town."""
    town = rng.choice(lore.towns)
    festival = town.festival
    site = f"{town.name} is a town {town.place}."
    offer = f"It has {town.sight} and is known for {town.produce.name}."
    feast = f"In {festival.season}, it celebrates {festival.name}, where people {festival.custom}."
    question = GUIDE.pick(rng, purpose).format(town=town.name)

    def write() -> str:
        return " ".join((site, *rng.choice(((offer, feast), (feast, offer)))))

    return Draft(question, "", write_several(write))


def tell_story(rng: Random, lore: Lore, purpose: Purpose) -> Draft | None:
    """A person meets an animal in need; some pairs, and all strangers, occur in the shifted set only."""
    person, animal = pick_person(rng, lore, purpose), rng.choice(ANIMALS)
    if purpose is not Purpose.SHIFTED and is_held_out(person.name, animal.name):
        return None
    question = STORY.pick(rng, purpose).format(name=person.name, animal=with_article(animal.name))

    def write() -> str:
        who = capitalise(person.pronoun)
        help_given = rng.choice(
            (
                f"{who} gave it some {person.food.name}",
                f"{who} took it home to {person.town.name}",
                f"{who} stayed with it all night",
            )
        )
        hero = f"{person.name} the {person.craft.name}"
        return (
            f"{rng.choice(BEGINNINGS)}, {hero} met {with_article(animal.name)}. "
            f"{rng.choice(PROBLEMS)}. {help_given}. {rng.choice(ENDINGS)}."
        )

    return Draft(question, "", write_several(write))


def write_invitation(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """An invitation to the festival of a town."""
    town = rng.choice(lore.towns)
    question = LETTER.pick(rng, purpose).format(festival=town.festival.name, town=town.name)

    def write() -> str:
        return (
            f"Dear friend, come to {town.name} this {town.festival.season} for {town.festival.name}. "
            f"We will {town.festival.custom} and eat {town.produce.name}. {rng.choice(CHEERS)}."
        )

    return Draft(question, "", write_several(write))


def write_verse(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """A few lines on what an animal does."""
    animal = rng.choice(ANIMALS)
    home = f"{'on' if animal.home == 'the hills' else 'in'} {animal.home}"

    def write() -> str:
        address = rng.choice(("little", "dear", "quiet", "clever"))
        wish = rng.choice(("stay with me", "show me your way", "sing me a song"))
        song = f"you live on {animal.diet} and you can {animal.skill}"
        return f"O {address} {animal.name} {home}, {song}. O {address} {animal.name}, {wish}."

    return Draft(RHYME.pick(rng, purpose).format(animal=with_article(animal.name)), "", write_several(write))


LONG_ANSWERS = (
    Family("general_qa", explain_craft, 3, shifts=False),
    Family("general_qa", describe_person, 6, shifts=False),
    Family("general_qa", describe_town, 2, shifts=False),
    Family("creative_writing", tell_story, 6),
    Family("creative_writing", write_invitation, 3, shifts=False),
    Family("creative_writing", write_verse, 3, shifts=False),
)
