"""The hand-written table of crafts, with their tools and steps."""

from typing import NamedTuple


class Craft(NamedTuple):
    """One craft with what it makes, where, with which tools, and in which four steps."""

    name: str
    product: str
    workplace: str
    tools: tuple[str, str, str]
    steps: tuple[str, str, str, str]


CRAFTS = (
    Craft(
        "baker",
        "bread",
        "a bakery",
        ("oven", "rolling pin", "flour sieve"),
        ("mix flour and water", "knead the dough", "let the dough rise", "bake the bread in a hot oven"),
    ),
    Craft(
        "potter",
        "bowls",
        "a pottery",
        ("wheel", "kiln", "sponge"),
        ("soften the clay", "shape the bowl on the wheel", "dry the bowl in the sun", "fire it in the kiln"),
    ),
    Craft(
        "weaver",
        "cloth",
        "a weaving room",
        ("loom", "shuttle", "comb"),
        ("spin the wool", "dye the thread", "set up the loom", "weave the cloth row by row"),
    ),
    Craft(
        "smith",
        "knives",
        "a forge",
        ("hammer", "anvil", "chisel"),
        ("heat the iron", "hammer the blade flat", "cool it in water", "grind the edge until it is sharp"),
    ),
    Craft(
        "carpenter",
        "chairs",
        "a workshop",
        ("saw", "plane", "drill"),
        (
            "choose dry oak boards",
            "saw the legs and the seat",
            "glue the parts together",
            "rub the wood with oil",
        ),
    ),
    Craft(
        "cooper",
        "barrels",
        "a cooperage",
        ("mallet", "hoop", "drawknife"),
        ("split the oak staves", "bend them over a fire", "fit the iron hoops", "fill the barrel with water"),
    ),
    Craft(
        "cobbler",
        "shoes",
        "a shoe shop",
        ("awl", "needle", "shoe last"),
        ("measure the foot", "cut the leather", "sew the upper part", "nail on the sole"),
    ),
    Craft(
        "tailor",
        "coats",
        "a sewing room",
        ("measuring tape", "thimble", "needle"),
        ("measure the customer", "cut the cloth", "sew the seams", "add the buttons"),
    ),
    Craft(
        "candlemaker",
        "candles",
        "a wax house",
        ("pot", "mould", "ladle"),
        ("melt the wax", "hang the wick in a mould", "pour in the wax", "wait until it is hard"),
    ),
    Craft(
        "bookbinder",
        "books",
        "a bindery",
        ("press", "brush", "needle"),
        ("fold the pages", "sew them together", "glue on the cover", "press the book for a day"),
    ),
    Craft(
        "glassblower",
        "bottles",
        "a glass house",
        ("pipe", "furnace", "bench"),
        ("melt the sand", "gather glass on the pipe", "blow a round bubble", "let the bottle cool slowly"),
    ),
    Craft(
        "cheesemaker",
        "goat cheese",
        "a dairy",
        ("pail", "cloth", "press"),
        ("milk the goats", "warm the milk", "drain the curds in a cloth", "salt the cheese and let it age"),
    ),
    Craft(
        "beekeeper",
        "candied honey",
        "a bee yard",
        ("smoker", "veil", "knife"),
        (
            "calm the bees with smoke",
            "lift out the combs",
            "cut off the wax",
            "stir the honey until it is thick",
        ),
    ),
    Craft(
        "fisher",
        "smoked fish",
        "a boat house",
        ("net", "rod", "knife"),
        ("cast the net at dawn", "clean the fish", "rub them with salt", "hang them in the smoke"),
    ),
)
