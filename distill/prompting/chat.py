"""A tokenizer's chat template, looked at on a probe before it is trusted with a row.

The probe asks what every later step takes for granted: the instruction comes out of the prompt, the answer out of its
turn, and rendering ends. Templates differ in how they want to be called (text or parts of content, tools, documents),
so the ways are tried until one works.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.project.errors import ModelError
from distill.prompting.control_tokens import Composed, Piece, control_tokens, pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# With what a template may trim, escape, collapse or take for a mark of its own.
_USER = 'Quince7 <b> & "it\'s"\n  Größe: user3'
_ANSWER = 'Medlar5 <i> & "so"\n  Maß: reply9'
_SYSTEM = 'Sloe4 <u> & "be"\n  kühl: rule6'
_WAYS: tuple[dict[str, Any], ...] = ({}, {"tools": []}, {"documents": []}, {"tools": [], "documents": []})
_OTHER_DAY = "{% macro strftime_now(form) %}another day{% endmacro %}\n"
_CPU_SECONDS = 2
_WALL_SECONDS = 120
_MEMORY = 1 << 30
_MEND = "mend the template, or name another one by `prompt.chat_template`"


class MissingSystemTurnError(ModelError):
    """A chat template that will not do without a system turn."""


@dataclass(frozen=True)
class ChatForm:
    """A chat template that passed the probe: how it is called, and what it writes around a turn."""

    tokenizer: PreTrainedTokenizerBase
    source: str
    """The template itself."""
    system: str | None
    """The system turn in front; null leaves it to the template."""
    parts: bool
    """Whether content is given as a list of parts."""
    extra: Mapping[str, Any]
    """Further names that the template wants."""
    fixed: tuple[str, ...]
    """What it writes before, between and behind the user's text."""
    end_of_turn: str | None
    """The control token behind an answer, where there is one."""
    opening: str
    """What it writes between the start of an answer's turn and the answer when it asks for one: `<think>`."""
    default_system: str
    """The system turn that it writes if none is given."""
    default_system_tokens: int
    """The tokens of it, in every row."""
    dated: bool
    """Whether it writes the day of its use."""

    def open(self, text: str) -> Composed:
        """`text` as the user's turn, up to where the answer begins. Raises: ModelError."""
        whole = self._render(text)
        middle = _between(whole, self.fixed)
        if middle is None:  # a template that writes something else for this text
            fixed = tuple(self._render(_USER + text + _ANSWER).split(_USER + text + _ANSWER))
            middle = _between(whole, fixed) if len(fixed) > 1 else None
        else:
            fixed = self.fixed
        if middle is None or middle.strip() != text.strip():
            raise ModelError(f"the chat template does not write a row as it is, which begins {text[:60]!r}; {_MEND}")
        own = _cut(text, middle)
        pieces = [Piece(fixed[0], template=True)]
        for words in fixed[1:]:
            pieces += [*own, Piece(words, template=True)]
        return Composed(pieces)

    @property
    def notes(self) -> list[str]:
        """What a person should know of the template before a run, a sentence each."""
        found = []
        if self.default_system:
            found.append(
                f"the chat template adds a system turn to every row ({self.default_system_tokens} tokens): "
                f"{_short(self.default_system)}; `prompt.system` replaces it, and an empty one leaves it out"
            )
        if self.opening.strip():
            found.append(
                f"the chat template opens every answer with {_short(self.opening)}, so answers are trained right "
                "behind it; give answers that go on from there, or a template that does not write it"
            )
        if self.dated:
            found.append(
                "the chat template writes the day into every row, so rows prepared on another day are other rows; a "
                "template without it makes the same ones again"
            )
        return found

    def _render(self, text: str) -> str:
        written, why = _render(self.tokenizer, self.source, _turns(self.system, self.parts, text), self.extra, True)
        if written is None:
            raise ModelError(f"the chat template refuses a row, which begins {text[:60]!r} ({why}); {_MEND}")
        return written


def chat_form(tokenizer: PreTrainedTokenizerBase, template: bool | str, system: str | None) -> ChatForm:
    """Look at the tokenizer's chat template (`template`: its name, True for the tokenizer's own).

    Raises: ModelError when there is none, when it cannot be rendered, does not end, or loses instruction or answer.
    """
    return _looked_at(tokenizer, _source(tokenizer, template), system, str(tokenizer.special_tokens_map))


def _source(tokenizer: PreTrainedTokenizerBase, template: bool | str) -> str:
    found = tokenizer.chat_template
    if found is None:
        raise ModelError("`prompt.chat_template` is on but the tokenizer has no chat template; turn it off")
    templates = found if isinstance(found, dict) else {"default": found}
    name = template if isinstance(template, str) else "default"
    if name not in templates:
        missing = "none of them is the default" if name == "default" else f"none is called {name!r}"
        known = ", ".join(sorted(templates))
        raise ModelError(
            f"the tokenizer has the chat templates {known}, and {missing}; name one: `prompt.chat_template: "
            f"{sorted(templates)[0]}`"
        )
    return str(templates[name])


@lru_cache(maxsize=8)
def _looked_at(tokenizer: PreTrainedTokenizerBase, source: str, system: str | None, names: str) -> ChatForm:
    # `names` is part of the key: a template may write the tokenizer's own special tokens.
    seen = _within_limits(tokenizer, source, system)
    if "needs_system" in seen:
        raise MissingSystemTurnError(str(seen["needs_system"]))
    if "fault" in seen:
        raise ModelError(str(seen["fault"]))
    opened, turn = str(seen["opened"]), str(seen["turn"])
    before, behind = turn.partition(_ANSWER)[0], turn.rpartition(_ANSWER)[2]
    saved = seen["default_system"] and _count(tokenizer, opened) - _count(tokenizer, seen["without_default"])
    return ChatForm(
        tokenizer,
        source,
        system,
        bool(seen["parts"]),
        dict(seen["extra"]),
        tuple(opened.split(_USER)),
        _first_control(tokenizer, behind),
        opened[len(before) :] if opened.startswith(before) else "",
        str(seen["default_system"]),
        int(saved or 0),
        bool(seen["dated"]),
    )


def _within_limits(tokenizer: PreTrainedTokenizerBase, source: str, system: str | None) -> dict[str, Any]:
    """`_look`, in a process of its own: a template is a program of somebody else's, and may never end."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(sender, tokenizer, source, system), daemon=True)
    child.start()
    sender.close()
    try:
        content = receiver.recv_bytes() if receiver.poll(_WALL_SECONDS) else b""
    except EOFError:
        content = b""
    finally:
        receiver.close()
        child.kill()
        child.join()
    if not content:
        return {"fault": f"the chat template takes more than {_CPU_SECONDS} s or 1 GiB for one short turn; {_MEND}"}
    found: dict[str, Any] = json.loads(content)
    return found


def _report(sender: Connection, tokenizer: PreTrainedTokenizerBase, source: str, system: str | None) -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, _CPU_SECONDS)
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY)
        sender.send_bytes(json.dumps(_look(tokenizer, source, system)).encode())
    finally:
        os._exit(0)


def _limit(kind: int, most: int) -> None:
    """Allow this process no more than `most`; a lower limit that it was started under stays."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _look(tokenizer: PreTrainedTokenizerBase, source: str, system: str | None) -> dict[str, Any]:
    reasons: list[str] = []
    lost: list[str] = []
    for extra in _WAYS:
        for parts in (False, True):
            opened, why = _render(tokenizer, source, _turns(system, parts, _USER), extra, True)
            if opened is None:
                reasons.append(why)
            elif _USER not in opened:
                lost.append(f"leaves out or changes the instruction: of a probe it made {_short(opened)}; {_MEND}")
            elif system is not None and system.strip() not in opened:
                lost.insert(0, "leaves out `prompt.system`; remove it, or write it into the templates beside it")
            else:
                return _look_at_turn(tokenizer, source, system, parts, extra, opened)
    if lost:
        return {"fault": f"the chat template {lost[0]}"}
    other = None if system is not None else _SYSTEM
    works = any(_render(tokenizer, source, _turns(other, p, _USER), e, True)[0] for e in _WAYS for p in (False, True))
    if works and system is not None:
        unknown = "remove `prompt.system`, which it does not know"
        return {"fault": f"the chat template refuses the turns ({reasons[0]}); {unknown}"}
    if works:
        wanted = "write one: `prompt.system: You are a helpful assistant.`"
        return {"needs_system": f"the chat template asks for a system turn ({reasons[0]}); {wanted}"}
    return {"fault": f"the chat template cannot be rendered ({reasons[0]}); {_MEND}"}


def _look_at_turn(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    system: str | None,
    parts: bool,
    extra: Mapping[str, Any],
    opened: str,
) -> dict[str, Any]:
    turns = _turns(system, parts, _USER)
    reasons = []
    for answer in (_content(_ANSWER, parts), _content(_ANSWER, not parts)):
        for following in ([], turns[-1:]):
            spoken = [*turns, {"role": "assistant", "content": answer}, *following]
            turn, why = _render(tokenizer, source, spoken, extra, False)
            if turn is not None and _ANSWER in turn:
                default, without = "", ""
                if system is None:
                    default, without = _default_system(tokenizer, source, parts, extra, opened)
                return {
                    "opened": opened,
                    "turn": turn,
                    "parts": parts,
                    "extra": dict(extra),
                    "default_system": default,
                    "without_default": without,
                    "dated": opened != _render(tokenizer, _OTHER_DAY + source, turns, extra, True)[0],
                }
            reasons.append(why or "it is left out")
    return {"fault": f"the chat template cannot write an answer in its turn ({reasons[0]}); {_MEND}"}


def _default_system(
    tokenizer: PreTrainedTokenizerBase, source: str, parts: bool, extra: Mapping[str, Any], opened: str
) -> tuple[str, str]:
    """The system turn that the template writes unasked, and the prompt with an empty one in its place."""
    with_one, _ = _render(tokenizer, source, _turns(_SYSTEM, parts, _USER), extra, True)
    before, found, behind = (with_one or "").partition(_SYSTEM)
    if not found or len(opened) <= len(before) + len(behind):
        return "", ""
    if not (opened.startswith(before) and opened.endswith(behind)):
        return "", ""
    empty, _ = _render(tokenizer, source, _turns("", parts, _USER), extra, True)
    return opened[len(before) : len(opened) - len(behind)], before + behind if empty is None else empty


def _render(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    turns: Sequence[Mapping[str, Any]],
    extra: Mapping[str, Any],
    open_answer: bool,
) -> tuple[str | None, str]:
    """The rendered turns; None and the reason when the template fails, in whatever way."""
    try:
        written = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            chat_template=source,
            add_generation_prompt=open_answer,
            tokenize=False,
            **extra,
        )
    except Exception as error:  # noqa: BLE001 - a template is a program, and can fail in any way
        reason = " ".join(str(error).split())[:200]
        return None, reason or type(error).__name__
    return str(written), ""


def _turns(system: str | None, parts: bool, text: str) -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": _content(text, parts)}]
    return turns if system is None else [{"role": "system", "content": _content(system, parts)}, *turns]


def _content(text: str, parts: bool) -> Any:
    return [{"type": "text", "text": text}] if parts else text


def _between(whole: str, fixed: Sequence[str]) -> str | None:
    """What stands in each gap between the fixed words, the same in all; None where they are not found."""
    gaps = len(fixed) - 1
    length, rest = divmod(len(whole) - sum(map(len, fixed)), gaps)
    if length < 0 or rest:
        return None
    middle = whole[len(fixed[0]) : len(fixed[0]) + length]
    return middle if middle.join(fixed) == whole else None


def _cut(text: str, middle: str) -> list[Piece]:
    """The pieces of `text` that are left of it in `middle`: templates trim."""
    start = text.find(middle)
    if start < 0:
        return [Piece(middle, template=False)]
    pieces, place = [], 0
    for piece in pieces_of(text):
        kept = piece.text[max(0, start - place) : max(0, start + len(middle) - place)]
        place += len(piece.text)
        if kept:
            pieces.append(Piece(kept, piece.template))
    return pieces


def _first_control(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    text = text.lstrip()
    return max((token for token in control_tokens(tokenizer) if text.startswith(token)), key=len, default=None)


def _count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "…")
