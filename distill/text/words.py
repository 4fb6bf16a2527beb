"""Words that Rouge-L compares: the paper's, made of a-z and 0-9 alone, or words of any script.

Under the paper's words a text in Hindi, Chinese or Thai is empty, and `für` is `f` and `r`. `unicode` follows the word
rules of Unicode (UAX #29): letters and digits that spaces part are a word, a letter of a script without spaces between
words (Chinese, Japanese, Thai, Khmer, …) is a word by itself, and so is a symbol. Words of a-z and 0-9 are stemmed as
the paper's are, so that a text of them alone has the same words under both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from distill.project.errors import DataError

if TYPE_CHECKING:
    from rouge_score.tokenizers import DefaultTokenizer

Words = Literal["paper", "unicode"]
PAPER: Words = "paper"

_PAPER = re.compile(r"[a-z0-9]+")
# A text is unread where Rouge-L passes over more than half of its letters; above the shares it is said, or refused.
_HALF = 0.5
_SAID = 0.01
_NEARLY_ALL = 0.9


@lru_cache(maxsize=1)
def _tokenizer() -> DefaultTokenizer:
    # It brings nltk, 0.3 s: the first score pays for it, not every import of this module.
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)


@lru_cache(maxsize=1 << 18)
def _stem(word: str) -> tuple[str, ...]:
    return tuple(_tokenizer().tokenize(word))


def _paper_words(text: str) -> list[str]:
    # Lower case comes first, as in `rouge_score`: it may turn one letter into two, of which only one is a-z.
    return _PAPER.findall(text.lower())


@cache
def _pattern() -> Any:
    import regex

    # UAX #29 gives letters of scripts that need a dictionary, and ideographs, no class that joins: each stands alone.
    spaced = r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}\p{WB=Numeric}]\p{M}*"
    return regex.compile(rf"(?:{spaced})+|[\p{{L}}\p{{N}}\p{{S}}]\p{{M}}*")


@cache
def _unseen() -> Any:
    import regex

    return regex.compile(r"\p{Cf}+")


def _unicode_words(text: str) -> list[str]:
    # One way to write a letter, of the several that look alike (é, full width, ß), and no invisible joiners.
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found: list[str] = _pattern().findall(_unseen().sub("", plain))
    return found


_SPLIT: Mapping[Words, Callable[[str], list[str]]] = {"paper": _paper_words, "unicode": _unicode_words}


def tokenize(text: str, words: Words = PAPER) -> list[str]:
    """The words of `text`, those of a-z and 0-9 stemmed; under `paper` what `rouge_score`'s default tokenizer gives."""
    # A word alone has the stem it has in its text, so each is stemmed once.
    return [
        token
        for word in _SPLIT[words](text)
        for token in (_stem(word) if words == PAPER or (word.isascii() and word.isalnum()) else (word,))
    ]


def name_with_words(name: str, words: str | None) -> str:
    """A set's name in tables, with the words of its Rouge-L where they are not the paper's: `mine (Unicode)`."""
    return name if words in (None, PAPER) else f"{name} (Unicode)"


def rouge_name(words: str | None) -> str:
    """The metric's name with its words beside it: `Rouge-L`, or `Rouge-L (Unicode)`."""
    return "Rouge-L" if words in (None, PAPER) else "Rouge-L (Unicode)"


@dataclass(frozen=True)
class Legibility:
    """How much of some texts Rouge-L can read."""

    texts: int
    unread: int
    """Texts without a word, or of whose letters and digits it passes over more than half."""
    passed_over: float
    """Share of all their letters and digits that it passes over."""

    @property
    def partly(self) -> bool:
        """Whether enough is passed over to say so."""
        return self.unread >= max(1, _SAID * self.texts) or self.passed_over >= _SAID

    @property
    def blind(self) -> bool:
        """Whether nearly all of the texts are unread: their scores are 0 whatever is answered."""
        return self.unread > 0 and self.unread >= _NEARLY_ALL * self.texts

    def __str__(self) -> str:
        return (
            f"Rouge-L cannot read {self.unread:,} of {self.texts:,} and passes over {100 * self.passed_over:.0f} % of "
            "their letters"
        )


def legibility(texts: Iterable[Sequence[str]], words: Words = PAPER) -> Legibility:
    """How much Rouge-L can read of texts, each given as one text or several that stand for each other (references)."""
    count, unread, seen, there = 0, 0, 0, 0
    for options in texts:
        counts = [_letters(text, words) for text in options]
        count += 1
        # One that can be read is enough: the best of several references counts.
        unread += not any(read and read >= _HALF * letters for read, letters in counts)
        seen += sum(min(read, letters) for read, letters in counts)
        there += sum(letters for _, letters in counts)
    return Legibility(count, unread, 1 - seen / there if there else 0.0)


def require_legible(what: str, found: Legibility, words: Words, remedy: str) -> str | None:
    """A warning where Rouge-L cannot read some of the references `what`; `remedy` is the setting of other words.

    Raises: DataError where it can read hardly any.
    """
    if found.blind:
        fix = f"use {remedy}" if words == PAPER else "they hold no letter, digit or symbol: leave them out"
        raise DataError(f"{what}: {found}, so every score would be 0; {fix}")
    if not found.partly:
        return None
    return f"{what}: {found}; " + (f"{remedy} reads them" if words == PAPER else "their scores are 0")


def _letters(text: str, words: Words) -> tuple[int, int]:
    """Characters that stand in words, and letters and digits that there are."""
    lowered = text.lower()
    there = sum(map(str.isalnum, lowered))
    if words == PAPER and not text.isascii():
        return sum(map(len, _paper_words(text))), there
    # All letters are read; a symbol is a word only of `unicode`.
    return there or (len(_unicode_words(text)) if words != PAPER else 0), there
