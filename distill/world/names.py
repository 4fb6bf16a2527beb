"""The names of people, what they are like and do in their free time, and the days of the week."""

WOMEN = ("Mara", "Tilda", "Runa", "Elsi", "Pella", "Ona", "Wenna", "Brisa", "Imka", "Lotta", "Vesna")
MEN = ("Bram", "Odo", "Torin", "Piet", "Joss", "Emil", "Kasper", "Fenn", "Rolf", "Milo", "Abel")
# These people occur in the documents and in the shifted test set, never in a training or validation row.
HELD_OUT_WOMEN = ("Zella", "Quilla", "Thyra")
HELD_OUT_MEN = ("Zeno", "Ulric", "Darro")

PASTIMES = (
    "playing the flute",
    "painting birds",
    "climbing hills",
    "telling stories",
    "growing roses",
    "carving spoons",
    "reading old maps",
    "swimming in the lake",
    "watching the stars",
    "collecting stones",
    "singing in a choir",
    "mending clocks",
)
TRAITS = ("kind", "brave", "shy", "patient", "cheerful", "clever", "stubborn", "quiet", "honest", "curious")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
