"""Files of text as they are met: packed or not, and in whichever Unicode encoding they were saved."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from distill.project.errors import DataError, DistillError

PACKED = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}
"""Suffix of a packed file to the bytes it begins with."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked where its first bytes say that it is packed, whatever its name.

    Raises: DataError when it is missing, a folder, damaged, or not the packed file that its name promises.
    """
    try:
        with path.open("rb") as raw:
            head = raw.peek(6)
            packing = next((suffix for suffix, magic in PACKED.items() if head.startswith(magic)), None)
            promised = path.suffix.lower()
            if packing is None and promised in PACKED:
                raise DataError(f"{path} is damaged (it holds no {promised} data); fetch it again")
            try:
                with _unpacked(raw, packing) as stream:
                    yield stream
            except DistillError:
                raise
            # Each packing has exceptions of its own, and what is done with plain bytes keeps its own too.
            except Exception as error:
                if packing is None:
                    raise
                raise DataError(f"{path} is damaged ({str(error) or type(error).__name__}); fetch it again") from None
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; correct the path or put the file there") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name a file in it") from None


def _unpacked(raw: io.BufferedReader, packing: str | None) -> IO[bytes]:
    if packing == ".gz":
        return cast(IO[bytes], gzip.open(raw))
    if packing == ".xz":
        return lzma.open(raw)
    if packing == ".bz2":
        return bz2.open(raw)
    if packing == ".zst":
        import pyarrow

        # Arrow brings the codec, which Python itself has from 3.14 on.
        with pyarrow.input_stream(raw, compression="zstd") as stream:
            return io.BytesIO(stream.read())
    return raw


def read_utf8(stream: IO[bytes]) -> IO[bytes]:
    """The same bytes in UTF-8, if they are UTF-16 or UTF-32 with a mark, or text that begins with an ASCII character.

    Raises: ValueError when they break off in the middle of a character.
    """
    head = cast(io.BufferedReader, stream).peek(4)[:4] if hasattr(stream, "peek") else _look(stream)
    encoding = _encoding(head)
    return stream if encoding is None else io.BytesIO(stream.read().decode(encoding).encode())


def _look(stream: IO[bytes]) -> bytes:
    head = stream.read(4)
    stream.seek(0)
    return head


def _encoding(head: bytes) -> str | None:
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    # Without a mark, the zero bytes around the first character tell.
    zeros = [byte == 0 for byte in head]
    if zeros == [False, True, True, True]:
        return "utf-32-le"
    if zeros == [True, True, True, False]:
        return "utf-32-be"
    if zeros[:2] == [False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros[:2] == [True, False] else None
