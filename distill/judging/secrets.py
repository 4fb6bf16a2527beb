"""The key, taken out of every text that a server sends, before that text is shown, raised or kept."""

from __future__ import annotations

import base64
import html
import re

_LONGEST_MESSAGE = 200
_SHORTEST_SECRET = 8  # a key like "none" is no secret, and the word may stand in any answer
_SHORTEST_SHOWN = 4
_WORD = re.compile(r"[A-Za-z_-]{1,11}")
_IN_PLACE = "[key]"


class Redactor:
    """Puts `[key]` in place of a key, however it is spelled: escaped, encoded, wrapped, in another case."""

    def __init__(self, key: str) -> None:
        """A short plain word is not looked for in answers: a server that wants no key is given any word."""
        self._pattern = _pattern_of(key) if len(key) >= _SHORTEST_SHOWN else None
        self._is_secret = len(key) >= _SHORTEST_SECRET and not _WORD.fullmatch(key)

    def answer(self, text: str) -> str:
        """A text that is kept and learned from."""
        return self._replace(text) if self._is_secret else text

    def message(self, text: str) -> str:
        """A text for the screen: one line, cut to a length. Cut after the replacing, so that no half key is left."""
        return " ".join(self._replace(text).split())[:_LONGEST_MESSAGE]

    def _replace(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(_IN_PLACE, text)


def _pattern_of(key: str) -> re.Pattern[str]:
    # Every repetition has a bound: a long text of one letter must not cost the square of its length.
    spelled = r"\s{0,40}".join(_spellings(character) for character in key)
    forms = [f"(?i:{spelled})", f"(?i:{re.escape(key.encode().hex())})"]
    if len(key) >= _SHORTEST_SECRET:
        # As part of a longer text, say `Bearer <key>`: its bytes begin at one of three places of a base64 group.
        forms += [rf"[\w+/=-]{{0,3}}{_base64_core(key, offset)}[\w+/=-]{{0,4}}" for offset in range(3)]
    return re.compile("|".join(forms))


def _spellings(character: str) -> str:
    """The ways to write one character: itself, in an address, in JSON, in HTML."""
    code = ord(character)
    forms = {
        re.escape(character),
        re.escape(html.escape(character)),
        rf"\\{{1,9}}{re.escape(character)}",
        rf"%(?:25){{0,3}}{code:02x}",
        rf"\\{{1,9}}u{code:04x}",
        rf"\\{{1,9}}x{code:02x}",
        rf"&#0{{0,5}}{code};?",
        rf"&#x0{{0,5}}{code:x};?",
    }
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})"


def _base64_core(key: str, offset: int) -> str:
    """The letters of a base64 text that the key alone settles, `offset` bytes after the start of a group."""
    content = key.encode()
    letters = base64.b64encode(b"\0" * offset + content).decode()
    core = letters[-(-8 * offset // 6) : 8 * (offset + len(content)) // 6]
    return "".join({"+": "[+-]", "/": "[/_]"}.get(letter, letter) for letter in core)
