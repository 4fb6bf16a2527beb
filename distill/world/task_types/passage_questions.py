"""Tasks on a passage of small events: questions (closed_qa) and information_extraction."""

from random import Random

from distill.world.drafts import Draft, Family, Purpose, Wordings
from distill.world.events import Event, draw_events, write_passage
from distill.world.language import capitalise, join_words
from distill.world.lore import Lore

WHO = Wordings(
    ("Who {past} {thing}?", "Which person {past} {thing}?", "Say who {past} {thing}."),
    ("Give the name of the person who {past} {thing}.",),
)
WHAT = Wordings(
    ("What did {name} {base}?", "Say what {name} {past}.", "According to the text, what did {name} {base}?"),
    ("Which thing was it that {name} {past}?",),
)
WHERE = Wordings(
    (
        "Where did {name} {base} {thing}?",
        "In which town did {name} {base} {thing}?",
        "Say where {name} {past} {thing}.",
    ),
    ("Name the place where {name} {past} {thing}.",),
)
WHEN = Wordings(
    (
        "When did {name} {base} {thing}?",
        "On which day did {name} {base} {thing}?",
        "Say when {name} {past} {thing}.",
    ),
    ("Name the day when {name} {past} {thing}.",),
)
WHETHER = Wordings(
    (
        "Did {name} {base} {thing}?",
        "Is it true that {name} {past} {thing}?",
        "Answer with yes or no: did {name} {base} {thing}?",
    ),
    ("Does the text say that {name} {past} {thing}?", "True or not: {name} {past} {thing}."),
)
EXTRACT = {
    "people": Wordings(
        (
            "List the people in the text.",
            "Which people does the text name?",
            "Extract all names of people.",
            "Who appears in the passage?",
            "Write down every person in the text.",
        ),
        ("Find the persons mentioned below.", "Pull the names of people out of this text."),
    ),
    "things": Wordings(
        (
            "List the foods and animals in the text.",
            "Which foods and animals does the text name?",
            "Extract all foods and animals.",
            "Write down every food and animal in the text.",
        ),
        ("Find the animals and foods mentioned below.", "Pull the foods and animals out of this text."),
    ),
    "settings": Wordings(
        (
            "List the days and towns in the text.",
            "Which days and towns does the text name?",
            "Extract all days and towns.",
            "Write down every day and town in the text.",
        ),
        ("Find the towns and days mentioned below.", "Pull the days and towns out of this text."),
    ),
}
FORM = Wordings(
    (
        "Fill in a form with person, action, and thing.",
        "Extract person, action, and thing from the text.",
        "Turn the text into fields: person, action, thing.",
        "Make a table of person, action, and thing.",
    ),
    ("Sort the text into person, action, thing.", "Which person, action, and thing are in here? Use fields."),
)


def _draw_passage(rng: Random, lore: Lore, purpose: Purpose) -> list[Event]:
    count = 4 if purpose is Purpose.SHIFTED else rng.choice((2, 3))
    return draw_events(rng, lore, purpose, count)


def ask_passage(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """A question of who, what, where or when about one event of the passage."""
    events = _draw_passage(rng, lore, purpose)
    event = rng.choice(events)
    kind = rng.choice((WHO, WHAT, WHEN if event.tells_day else WHERE))
    question = kind.pick(rng, purpose).format(
        name=event.person.name, past=event.verb.past, base=event.verb.base, thing=event.thing
    )
    answer = f"{event.person.name} {event.verb.past} {event.thing}"
    if kind in (WHEN, WHERE):
        answer = f"{answer} {event.setting}"
    return Draft(question, write_passage(events), (f"{answer}.",))


def ask_whether(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """A yes/no question on the passage; a false one gives one person's deed to another (boolean_qa)."""
    events = _draw_passage(rng, lore, purpose)
    event, other = rng.sample(events, 2)
    is_true = rng.random() < 0.5
    person = event.person if is_true else other.person
    question = WHETHER.pick(rng, purpose).format(
        name=person.name, past=event.verb.past, base=event.verb.base, thing=event.thing
    )
    return Draft(question, write_passage(events), ("Yes." if is_true else "No.",))


def extract_mentions(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """All people, all things, or all settings of the passage in its order."""
    events = _draw_passage(rng, lore, purpose)
    sort = rng.choice(tuple(EXTRACT))
    mentions = {
        "people": [event.person.name for event in events],
        "things": [event.thing for event in events],
        "settings": [event.day if event.tells_day else event.town for event in events],
    }[sort]
    return Draft(EXTRACT[sort].pick(rng, purpose), write_passage(events), (f"{capitalise(join_words(mentions))}.",))


def fill_form(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """The parts of one event (two in the shifted set) as labelled fields."""
    events = draw_events(rng, lore, purpose, 2 if purpose is Purpose.SHIFTED else 1)
    forms = [f"Person: {event.person.name}, action: {event.verb.base}, thing: {event.thing}." for event in events]
    return Draft(FORM.pick(rng, purpose), write_passage(events), (" ".join(forms),))


PASSAGE_QUESTIONS = (
    Family("closed_qa", ask_passage, 6),
    Family("closed_qa", ask_whether, 3),
    Family("information_extraction", extract_mentions, 5),
    Family("information_extraction", fill_form, 2),
)
