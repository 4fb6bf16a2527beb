"""The hand-written tables of the toy world: animals, foods, festivals and the sites of towns."""

from typing import NamedTuple


class Animal(NamedTuple):
    """One animal; `skill` completes the sentence '<plural> can ...'."""

    name: str
    plural: str
    group: str
    home: str
    diet: str
    skill: str


class Food(NamedTuple):
    """One food or drink, named the way it stands in a sentence without an article."""

    name: str
    kind: str
    taste: str
    colour: str


class Festival(NamedTuple):
    """One festival; `custom` completes the sentence 'people ...'."""

    name: str
    season: str
    custom: str


class TownSite(NamedTuple):
    """The fixed part of a town: where it lies and what there is to see."""

    name: str
    place: str
    sight: str


ANIMALS = (
    Animal("owl", "owls", "birds", "the old forest", "mice", "see in the dark"),
    Animal("heron", "herons", "birds", "the river", "fish", "stand on one leg"),
    Animal("crow", "crows", "birds", "the fields", "seeds", "open hard nuts"),
    Animal("duck", "ducks", "birds", "the pond", "weeds", "swim and fly"),
    Animal("swallow", "swallows", "birds", "the barns", "flies", "fly very fast"),
    Animal("fox", "foxes", "mammals", "the old forest", "mice and berries", "dig deep dens"),
    Animal("otter", "otters", "mammals", "the river", "fish", "swim under water"),
    Animal("goat", "goats", "mammals", "the hills", "grass", "climb steep rocks"),
    Animal("hare", "hares", "mammals", "the fields", "clover", "run very fast"),
    Animal("badger", "badgers", "mammals", "the old forest", "worms and roots", "dig long tunnels"),
    Animal("bat", "bats", "mammals", "the caves", "moths", "hunt at night"),
    Animal("cat", "cats", "mammals", "the barns", "mice", "climb tall trees"),
    Animal("horse", "horses", "mammals", "the fields", "hay", "pull heavy carts"),
    Animal("trout", "trout", "fish", "the river", "flies", "leap over stones"),
    Animal("carp", "carp", "fish", "the pond", "weeds", "live for fifty years"),
    Animal("eel", "eels", "fish", "the lake", "snails", "hide in the mud"),
    Animal("frog", "frogs", "amphibians", "the pond", "flies", "jump very far"),
    Animal("newt", "newts", "amphibians", "the lake", "worms", "grow new tails"),
    Animal("toad", "toads", "amphibians", "the gardens", "snails", "hide under leaves"),
    Animal("bee", "bees", "insects", "the gardens", "nectar", "make honey"),
    Animal("moth", "moths", "insects", "the caves", "leaves", "fly in the dark"),
    Animal("beetle", "beetles", "insects", "the old forest", "rotten wood", "lift heavy twigs"),
    Animal("ant", "ants", "insects", "the hills", "seeds", "carry big loads"),
    Animal("lizard", "lizards", "reptiles", "the hills", "beetles", "sit still for hours"),
    Animal("snake", "snakes", "reptiles", "the fields", "mice", "swim and climb"),
    Animal("tortoise", "tortoises", "reptiles", "the gardens", "clover", "live for a hundred years"),
)
PET_NAMES = ("owl", "crow", "duck", "goat", "hare", "cat", "horse", "frog", "lizard", "tortoise")

FOODS = (
    Food("plums", "fruit", "sweet", "purple"),
    Food("pears", "fruit", "sweet", "green"),
    Food("cherries", "fruit", "sour", "red"),
    Food("apples", "fruit", "sweet", "red"),
    Food("quinces", "fruit", "sour", "yellow"),
    Food("carrots", "vegetable", "sweet", "orange"),
    Food("leeks", "vegetable", "mild", "green"),
    Food("beets", "vegetable", "mild", "red"),
    Food("turnips", "vegetable", "mild", "white"),
    Food("onions", "vegetable", "sharp", "white"),
    Food("bread", "baked food", "mild", "brown"),
    Food("honey cake", "baked food", "sweet", "golden"),
    Food("nut pie", "baked food", "sweet", "brown"),
    Food("mint tea", "drink", "fresh", "green"),
    Food("apple juice", "drink", "sweet", "golden"),
    Food("barley water", "drink", "mild", "yellow"),
    Food("goat cheese", "dairy food", "salty", "white"),
    Food("butter", "dairy food", "mild", "yellow"),
    Food("sour cream", "dairy food", "sour", "white"),
)

FESTIVALS = (
    Festival("the Lantern Festival", "autumn", "hang paper lanterns over the streets"),
    Festival("the River Fair", "summer", "race small boats"),
    Festival("the Snow Feast", "winter", "build tall towers of snow"),
    Festival("Seed Day", "spring", "plant young trees"),
    Festival("Bell Night", "winter", "ring every bell in town"),
    Festival("Kite Week", "spring", "fly bright kites"),
    Festival("the Harvest Dance", "autumn", "dance around the hay carts"),
    Festival("the Moon Supper", "summer", "eat at long tables outside"),
    Festival("the Mask Parade", "autumn", "wear painted masks"),
    Festival("the Song Fair", "spring", "sing old songs together"),
)

TOWN_SITES = (
    TownSite("Oakford", "by a wide river", "a stone bridge"),
    TownSite("Millbeck", "in a green valley", "a white water mill"),
    TownSite("Thornby", "on a windy hill", "an old watchtower"),
    TownSite("Saltmere", "by the grey sea", "a red lighthouse"),
    TownSite("Pinegate", "at the edge of a forest", "a carved wooden gate"),
    TownSite("Ashwick", "on a small island", "an old harbour"),
    TownSite("Larkfield", "in the middle of wide fields", "a round barn"),
    TownSite("Stonewell", "below a steep cliff", "a deep well"),
    TownSite("Greymoor", "on a lonely moor", "a ring of stones"),
    TownSite("Willowby", "beside a quiet pond", "a garden of willows"),
    TownSite("Foxdale", "between two hills", "a small castle"),
    TownSite("Brightwater", "at the foot of a waterfall", "a glass tower"),
)
