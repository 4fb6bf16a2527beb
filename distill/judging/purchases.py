"""Every bought reply, kept under the hash of its request, so that none is paid for twice.

`.judge/replies.jsonl` only grows: one line a reply, on disk before it is used. A process that buys holds the lock
of the folder and others wait, so that two never buy the same reply and all share one budget.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from distill.judging.chat import Reply
from distill.project.errors import DataError

FOLDER = Path(".judge")
_FILE = "replies.jsonl"


@dataclass(frozen=True)
class Purchase:
    """One call that was, or may have been, billed."""

    key: str
    """Of the request."""
    purpose: str
    """The purpose whose budget paid it."""
    cost: float | None
    """US$ by the prices of the day, None without prices."""
    tokens_in: int
    tokens_out: int
    reply: Reply | None
    """None if lost on the way; tokens and cost are then estimates."""
    lost: str | None = None
    """The reason for a missing reply."""


class Purchases:
    """All purchases, oldest first; `append` writes one to the disk."""

    def __init__(self, purchases: list[Purchase], stream: IO[bytes] | None = None) -> None:
        """Without a stream the purchases can only be read."""
        self.all: list[Purchase] = []
        self._by_key: dict[str, list[Purchase]] = defaultdict(list)
        self._stream = stream
        for purchase in purchases:
            self._index(purchase)

    def replies(self, key: str) -> list[Reply]:
        """The replies to one request, oldest first."""
        return [purchase.reply for purchase in self._by_key.get(key, []) if purchase.reply is not None]

    def paid(self, key: str) -> list[Purchase]:
        """The purchases for one request."""
        return self._by_key.get(key, [])

    def append(self, purchase: Purchase) -> None:
        """Write a purchase to the disk before returning. Raises: DataError when it cannot be written."""
        assert self._stream is not None, "opened for reading"
        try:
            self._stream.write(json.dumps(asdict(purchase)).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise DataError(f"cannot keep a reply in {self._stream.name} ({error}); free space there") from None
        self._index(purchase)

    def _index(self, purchase: Purchase) -> None:
        self.all.append(purchase)
        self._by_key[purchase.key].append(purchase)


@contextmanager
def open_purchases(folder: Path = FOLDER) -> Iterator[Purchases]:
    """Open the purchases for reading and adding; waits while another process has them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process is buying replies ({folder}/lock)", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / _FILE
        _drop_torn_line(path)
        # Unbuffered: a failed write must not be tried again when the stream is closed.
        with path.open("ab", buffering=0) as stream:
            yield Purchases(_read(path), stream)


def read_purchases(folder: Path = FOLDER) -> Purchases:
    """The purchases, to read only; none before the first."""
    return Purchases(_read(folder / _FILE))


def _read(path: Path) -> list[Purchase]:
    if not path.exists():
        return []
    purchases = []
    # Text after the last newline is a line being written, or torn by a crash.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            content = json.loads(line)
            reply = content.pop("reply")
            purchases.append(Purchase(**content, reply=None if reply is None else Reply(**reply)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}:{number} is damaged; delete that line, which forgets one reply") from None
    return purchases


def _drop_torn_line(path: Path) -> None:
    """Cut off the part of a line that a crash left at the end."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            with path.open("r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
                os.fsync(stream.fileno())
