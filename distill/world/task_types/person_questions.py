"""Questions about people that the prompt does not answer (open_qa)."""

from random import Random

from distill.world.drafts import Draft, Family, Purpose, Wordings
from distill.world.language import capitalise, with_article
from distill.world.lore import Lore, Person, is_held_out

PERSON_TOPICS = ("town", "craft", "pet", "food", "pastime", "trait")
PERSON_WORDINGS = {
    "town": Wordings(
        (
            "Where does {name} live?",
            "Which town does {name} live in?",
            "What is {name}'s home town?",
            "Name the town where {name} lives.",
            "In which town can I find {name}?",
        ),
        ("Where is {name}'s house?", "I want to visit {name}. Which town do I go to?"),
    ),
    "craft": Wordings(
        (
            "What is {name}'s craft?",
            "What does {name} do for a living?",
            "Which craft does {name} practise?",
            "What work does {name} do?",
            "Tell me {name}'s job.",
        ),
        ("How does {name} earn money?", "What is {name}'s trade?"),
    ),
    "pet": Wordings(
        (
            "Which animal does {name} keep?",
            "What pet does {name} have?",
            "What kind of animal lives with {name}?",
            "Name {name}'s pet.",
            "Does {name} have a pet, and if so, which one?",
        ),
        ("What animal does {name} look after at home?", "Who is {name}'s animal friend?"),
    ),
    "food": Wordings(
        (
            "What does {name} like to eat or drink most?",
            "What is {name}'s favourite food?",
            "Which food does {name} like best?",
            "Name the food that {name} loves.",
            "What should I serve to {name}?",
        ),
        ("What would make {name} happy at the table?", "Which treat does {name} prefer?"),
    ),
    "pastime": Wordings(
        (
            "What does {name} do in {their} free time?",
            "What is {name}'s hobby?",
            "How does {name} spend {their} evenings?",
            "Name a pastime that {name} enjoys.",
            "What does {name} enjoy doing after work?",
        ),
        ("What does {name} do for fun?", "What keeps {name} busy on a day off?"),
    ),
    "trait": Wordings(
        (
            "What kind of person is {name}?",
            "How would you describe {name}'s character?",
            "Which word describes {name} best?",
            "What is {name} like?",
            "Describe {name}'s nature in one word.",
        ),
        ("What do the neighbours say about {name}?", "How does {name} come across to others?"),
    ),
}
TWO_TOPICS = Wordings(
    (
        "What do you know about {name}'s {first} and {second}?",
        "Tell me {name}'s {first} and {second}.",
        "Name {name}'s {first} and {their} {second}.",
        "I would like to know {name}'s {first} and {second}.",
    ),
    (
        "What can you say of {name} with regard to {first} and {second}?",
        "{name}: which {first}, which {second}?",
    ),
)
TOPIC_NOUNS = {
    "town": "home town",
    "craft": "craft",
    "pet": "pet",
    "food": "favourite food",
    "pastime": "hobby",
    "trait": "character",
}


def describe_topic(person: Person, topic: str) -> str:
    """What is true of a person on one topic, as a predicate: 'lives in Oakford'."""
    return {
        "town": f"lives in {person.town.name}",
        "craft": f"works as {with_article(person.craft.name)}",
        "pet": f"keeps {with_article(person.pet.name)}",
        "food": f"likes {person.food.name} best",
        "pastime": f"enjoys {person.pastime}",
        "trait": f"is {person.trait}",
    }[topic]


def name_topic(person: Person, topic: str) -> str:
    """What is true of a person on one topic, as a noun: 'Oakford'."""
    return {
        "town": person.town.name,
        "craft": f"the work of {with_article(person.craft.name)}",
        "pet": with_article(person.pet.name),
        "food": person.food.name,
        "pastime": person.pastime,
        "trait": f"that of {with_article(person.trait)} person",
    }[topic]


def ask_person(rng: Random, lore: Lore, purpose: Purpose) -> Draft | None:
    """One fact about a person; some pairs of person and topic are asked in the shifted set only."""
    person, topic = rng.choice(lore.people), rng.choice(PERSON_TOPICS)
    if is_held_out(person.name, topic) != (purpose is Purpose.SHIFTED):
        return None
    wording = PERSON_WORDINGS[topic].pick(rng, purpose)
    # Two ways to say the same give the teacher a distribution with more than one mode.
    if rng.random() < 0.8:
        answer = f"{person.name} {describe_topic(person, topic)}."
    else:
        answer = f"{capitalise(person.possessive)} {TOPIC_NOUNS[topic]} is {name_topic(person, topic)}."
    question = wording.format(name=person.name, their=person.possessive)
    return Draft(question, "", (answer,))


def ask_person_twice(rng: Random, lore: Lore, purpose: Purpose) -> Draft | None:
    """Two facts about a person; some pairs of topics are asked in the shifted set only."""
    person, (first, second) = rng.choice(lore.people), rng.sample(PERSON_TOPICS, 2)
    if is_held_out(first, second) != (purpose is Purpose.SHIFTED):
        return None
    wording = TWO_TOPICS.pick(rng, purpose)
    question = wording.format(
        name=person.name, their=person.possessive, first=TOPIC_NOUNS[first], second=TOPIC_NOUNS[second]
    )
    predicates = f"{describe_topic(person, first)} and {describe_topic(person, second)}"
    return Draft(question, "", (f"{person.name} {predicates}.",))


PERSON_QUESTIONS = (
    Family("open_qa", ask_person, 8),
    Family("open_qa", ask_person_twice, 5),
)
