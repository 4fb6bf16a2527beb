"""Small rules of English that every sentence of the toy world goes through."""

from collections.abc import Sequence

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")


def with_article(noun: str) -> str:
    """The noun with 'a' or 'an' before it; the tables hold no word where spelling and sound disagree."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def join_words(items: Sequence[str]) -> str:
    """The items as an English enumeration with a serial comma."""
    if len(items) < 3:
        return " and ".join(items)
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def capitalise(text: str) -> str:
    """The text with its first letter in upper case and the rest unchanged (`str.capitalize` lowers it)."""
    return text[:1].upper() + text[1:]


def be_form(noun: str) -> str:
    """'are' for the plural food names of the tables, 'is' for the mass nouns."""
    return "are" if noun.endswith("s") else "is"
