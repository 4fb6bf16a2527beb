"""Tasks that put a given text in another form: rewriting and summarization."""

from random import Random

from distill.world.drafts import Draft, Family, Purpose, Wordings, pick_person
from distill.world.events import Event, draw_events, write_passage
from distill.world.language import capitalise, join_words, with_article
from distill.world.lore import Lore, Person
from distill.world.task_types.person_questions import PERSON_TOPICS, describe_topic

REWRITES = {
    "future": Wordings(
        (
            "Rewrite the text in the future tense.",
            "Say that this will happen.",
            "Put this text into the future.",
        ),
        ("Tell the text as something in the future.",),
    ),
    "question": Wordings(
        ("Turn the text into a question.", "Rewrite this as a question.", "Make questions of this text."),
        ("Rewrite the text as something you ask.",),
    ),
    "denial": Wordings(
        ("Rewrite the text so that it says the opposite.", "Deny the text.", "Say that this did not happen."),
        ("Rewrite the text with the word not.",),
    ),
    "first person": Wordings(
        (
            "Rewrite the text in the first person.",
            "Tell this as if you were the person.",
            "Use the word I instead.",
        ),
        ("Rewrite the text with the word I.",),
    ),
    "front": Wordings(
        (
            "Move the day or town to the front.",
            "Begin the text with the day or town.",
            "Rewrite the text so that the day or town comes first.",
        ),
        ("Put the day or town first in the text.",),
    ),
}
SUMMARIZE = Wordings(
    (
        "Summarize the text in one sentence.",
        "Make one sentence of this text.",
        "Write a short summary of the text.",
        "Say the same in one sentence.",
        "Give a summary.",
    ),
    ("Shorten this to a single sentence.", "What does the text say, in brief?"),
)
SUM_UP_TALE = Wordings(
    (
        "What is the story about?",
        "Sum up the story.",
        "Tell the story in one sentence.",
        "Give the main point of the story.",
    ),
    ("Boil the story down to its core.", "In a nutshell, what happened?"),
)
LOST_THINGS = (
    "a silver ring",
    "an old key",
    "a blue hat",
    "a letter",
    "a small drum",
    "a bag of coins",
    "a red umbrella",
)
HIDING_PLACES = (
    "under the bed",
    "behind the mill",
    "in the hay",
    "by the well",
    "on the roof",
    "in an empty barrel",
)
SEARCHES = (
    "{They} looked in every room.",
    "{They} asked all the neighbours.",
    "{They} could not sleep that night.",
    "The whole street helped to look.",
    "It rained all day.",
)


def _rewrite_event(event: Event, form: str) -> str:
    name, verb, thing, setting = event.person.name, event.verb, event.thing, event.setting
    return {
        "future": f"{name} will {verb.base} {thing} {setting}.",
        "question": f"Did {name} {verb.base} {thing} {setting}?",
        "denial": f"{name} did not {verb.base} {thing} {setting}.",
        "first person": f"I {verb.past} {thing} {setting}.",
        "front": f"{capitalise(setting)}, {name} {verb.past} {thing}.",
    }[form]


def rewrite_events(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """Put one or two events (three in the shifted set) into another grammatical form."""
    form = rng.choice(tuple(REWRITES))
    events = draw_events(rng, lore, purpose, 3 if purpose is Purpose.SHIFTED else rng.choice((1, 2)))
    answer = " ".join(_rewrite_event(event, form) for event in events)
    return Draft(REWRITES[form].pick(rng, purpose), write_passage(events), (answer,))


def write_portrait(person: Person, topics: list[str]) -> str:
    """One sentence per topic about a person, by name first and by pronoun after that."""
    subjects = [person.name] + [capitalise(person.pronoun)] * (len(topics) - 1)
    return " ".join(f"{who} {describe_topic(person, topic)}." for who, topic in zip(subjects, topics, strict=True))


def summarize_portrait(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """One sentence from a portrait; the facts stand in the text, so they need not be known."""
    person = pick_person(rng, lore, purpose)
    others = rng.sample(PERSON_TOPICS[2:5], 3 if purpose is Purpose.SHIFTED else rng.choice((1, 2)))
    tail = join_words([describe_topic(person, topic) for topic in others])
    answer = f"{person.name}, {with_article(person.craft.name)} from {person.town.name}, {tail}."
    topics = rng.sample(["town", "craft", *others], 2 + len(others))
    return Draft(SUMMARIZE.pick(rng, purpose), write_portrait(person, topics), (answer,))


def summarize_tale(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """The core of a small tale of something lost and found."""
    person, thing, place = pick_person(rng, lore, purpose), rng.choice(LOST_THINGS), rng.choice(HIDING_PLACES)
    found = thing.split(" ", 1)[1]
    fillers = rng.sample(SEARCHES, 2 if purpose is Purpose.SHIFTED else rng.choice((0, 1)))
    middle = "".join(f"{filler.format(They=capitalise(person.pronoun))} " for filler in fillers)
    day = rng.choice(("One morning", "Last week", "One evening"))
    text = f"{day}, {person.name} lost {thing}. {middle}At last {person.pronoun} found the {found} {place}."
    return Draft(SUM_UP_TALE.pick(rng, purpose), text, (f"{person.name} lost {thing} and found it {place}.",))


REWRITING = (
    Family("rewriting", rewrite_events, 6),
    Family("summarization", summarize_portrait, 5),
    Family("summarization", summarize_tale, 4),
)
