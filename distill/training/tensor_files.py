"""Named tensors in safetensors files, a few GiB each: neither writing nor reading them holds all at once.

Safetensors hold numbers and nothing that could run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_BYTES_A_FILE = 2**31


def write_tensors(
    folder: Path, name: str, tensors: Iterable[tuple[str, Tensor]], bytes_a_file: int = _BYTES_A_FILE
) -> None:
    """Write `tensors` as `<name>-00000.safetensors` and on; no file where there is none."""
    waiting: dict[str, Tensor] = {}
    number = 0

    def flush() -> None:
        nonlocal number
        if waiting:
            save_file(waiting, folder / f"{name}-{number:05d}.safetensors")
            number += 1
            waiting.clear()

    for key, tensor in tensors:
        # Safetensors refuse a view with gaps.
        waiting[key] = tensor.contiguous()
        # After the tensor, not before: none is cut in two, and a file may be over by at most one.
        if sum(value.nbytes for value in waiting.values()) >= bytes_a_file:
            flush()
    flush()


class StoredTensors(Mapping[str, Tensor]):
    """What `write_tensors` wrote, read one tensor at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        """See `write_tensors`; without a file it is empty."""
        self._places: dict[str, Path] = {}
        # Names alone are read here; a tensor's bytes only when it is asked for.
        for path in sorted(folder.glob(f"{name}-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._places |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, key: str) -> Tensor:
        with safe_open(self._places[key], framework="pt") as file:
            found: Tensor = file.get_tensor(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
