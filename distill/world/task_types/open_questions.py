"""Questions about animals, towns, festivals, crafts and foods that the prompt does not answer (open_qa)."""

from random import Random

from distill.world.crafts import CRAFTS
from distill.world.drafts import Draft, Family, Purpose, Wordings
from distill.world.facts import ANIMALS, FESTIVALS, FOODS, Food
from distill.world.language import be_form, capitalise, join_words, with_article
from distill.world.lore import Lore

ANIMAL_WORDINGS = {
    "home": Wordings(
        (
            "Where do {plural} live?",
            "In which place can I find {plural}?",
            "Where should I look for {plural}?",
        ),
        ("What is the home of {plural}?",),
    ),
    "diet": Wordings(
        ("What do {plural} eat?", "What is the food of {plural}?", "Which food do {plural} like?"),
        ("What do {plural} feed on?",),
    ),
    "skill": Wordings(
        ("What can {plural} do well?", "Which skill do {plural} have?", "What are {plural} good at?"),
        ("What is the talent of {plural}?",),
    ),
    "group": Wordings(
        (
            "What group of animals do {plural} belong to?",
            "What kind of animals are {plural}?",
            "To which animal group do {plural} belong?",
        ),
        ("Which sort of animals are {plural}?",),
    ),
}
TOWN_WORDINGS = {
    "place": Wordings(
        ("Where does {town} lie?", "Where is the town of {town}?", "How do I find {town}?"),
        ("What is the location of {town}?",),
    ),
    "sight": Wordings(
        (
            "What can one see in {town}?",
            "What is the main sight of {town}?",
            "What should a visitor see in {town}?",
        ),
        ("Which landmark does {town} have?",),
    ),
    "produce": Wordings(
        (
            "What is {town} known for?",
            "Which food comes from {town}?",
            "What do people make or grow in {town}?",
        ),
        ("What is the speciality of {town}?",),
    ),
    "festival": Wordings(
        (
            "Which festival does {town} hold?",
            "What do people in {town} celebrate?",
            "Name the festival of {town}.",
        ),
        ("What is the big day in {town}?",),
    ),
}
FESTIVAL_WORDINGS = {
    "season": Wordings(
        ("When is {festival}?", "In which season is {festival} held?", "What time of year is {festival}?"),
        ("What part of the year brings {festival}?",),
    ),
    "custom": Wordings(
        (
            "What do people do at {festival}?",
            "How do people celebrate {festival}?",
            "What happens at {festival}?",
        ),
        ("What is the custom of {festival}?",),
    ),
}
CRAFT_WORDINGS = {
    "product": Wordings(
        ("What does {craft} make?", "What can I buy from {craft}?", "What is made by {craft}?"),
        ("What comes out of the hands of {craft}?",),
    ),
    "workplace": Wordings(
        (
            "Where does {craft} work?",
            "What is the workplace of {craft}?",
            "Where can I find {craft} at work?",
        ),
        ("In what room does {craft} spend the day?",),
    ),
    "tools": Wordings(
        ("Which tools does {craft} use?", "What tools does {craft} need?", "Name the tools of {craft}."),
        ("What lies on the workbench of {craft}?",),
    ),
}
FOOD_WORDINGS = {
    "taste": Wordings(
        (
            "How do you describe the taste of {food}?",
            "What is the taste of {food}?",
            "What taste does one expect from {food}?",
        ),
        ("What is the flavour of {food}?",),
    ),
    "colour": Wordings(
        ("What is the colour of {food}?", "Which colour does one expect from {food}?"),
        ("What shade goes with {food}?",),
    ),
    "kind": Wordings(
        ("What kind of food is meant by {food}?", "To which kind of food do we count {food}?"),
        ("Under which heading would a shop list {food}?",),
    ),
}


def describe_food(food: Food, topic: str) -> str:
    """What is true of a food on one topic, as a predicate: 'are sweet'."""
    text = {
        "taste": f"{food.taste} in taste",
        "colour": f"{food.colour} in colour",
        "kind": f"a kind of {food.kind}",
    }
    return f"{be_form(food.name)} {text[topic]}"


def ask_animal(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """One fact about an animal."""
    animal, topic = rng.choice(ANIMALS), rng.choice(tuple(ANIMAL_WORDINGS))
    predicate = {
        "home": f"live in {animal.home}" if animal.home != "the hills" else "live on the hills",
        "diet": f"eat {animal.diet}",
        "skill": f"can {animal.skill}",
        "group": f"are {animal.group}",
    }[topic]
    question = ANIMAL_WORDINGS[topic].pick(rng, purpose).format(plural=animal.plural)
    return Draft(question, "", (f"{capitalise(animal.plural)} {predicate}.",))


def ask_town(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """One fact about a town."""
    town, topic = rng.choice(lore.towns), rng.choice(tuple(TOWN_WORDINGS))
    predicate = {
        "place": f"lies {town.place}",
        "sight": f"has {town.sight}",
        "produce": f"is known for {town.produce.name}",
        "festival": f"celebrates {town.festival.name}",
    }[topic]
    question = TOWN_WORDINGS[topic].pick(rng, purpose).format(town=town.name)
    return Draft(question, "", (f"{town.name} {predicate}.",))


def ask_festival(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """One fact about a festival."""
    festival, topic = rng.choice(FESTIVALS), rng.choice(tuple(FESTIVAL_WORDINGS))
    question = FESTIVAL_WORDINGS[topic].pick(rng, purpose).format(festival=festival.name)
    name = capitalise(festival.name)
    answers = {
        "season": f"{name} is held in {festival.season}.",
        "custom": f"At {festival.name}, people {festival.custom}.",
    }
    return Draft(question, "", (answers[topic],))


def ask_craft(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """One fact about a craft."""
    craft, topic = rng.choice(CRAFTS), rng.choice(tuple(CRAFT_WORDINGS))
    worker = with_article(craft.name)
    predicate = {
        "product": f"makes {craft.product}",
        "workplace": f"works in {craft.workplace}",
        "tools": f"uses {join_words([with_article(tool) for tool in craft.tools])}",
    }[topic]
    question = CRAFT_WORDINGS[topic].pick(rng, purpose).format(craft=worker)
    return Draft(question, "", (f"{capitalise(worker)} {predicate}.",))


def ask_food(rng: Random, lore: Lore, purpose: Purpose) -> Draft:
    """One fact about a food."""
    food, topic = rng.choice(FOODS), rng.choice(tuple(FOOD_WORDINGS))
    question = FOOD_WORDINGS[topic].pick(rng, purpose).format(food=food.name)
    return Draft(question, "", (f"{capitalise(food.name)} {describe_food(food, topic)}.",))


OPEN_QUESTIONS = (
    Family("open_qa", ask_animal, 3, shifts=False),
    Family("open_qa", ask_town, 3, shifts=False),
    Family("open_qa", ask_festival, 2, shifts=False),
    Family("open_qa", ask_craft, 2, shifts=False),
    Family("open_qa", ask_food, 2, shifts=False),
)
