"""What a stored state may be: written by nobody else, and in files that need not be held at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.evaluation.resumable import FinishedResponses, Sampled
from distill.project.errors import DataError
from distill.runs.resume import ResumeStore, State, seal
from distill.training.tensor_files import StoredTensors, write_tensors
from tests.test_pipeline_resume import cut_off_at, train


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def give_away(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder to another user")
    os.chown(folder / "sha256.json", 12345, 12345)


def let_others_write_a_file(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "sha256.json").chmod(0o666)


def put_a_link(folder: Path) -> None:
    (folder / "sha256.json").rename("elsewhere")
    (folder / "sha256.json").symlink_to(Path("elsewhere").resolve())


STRANGE: dict[str, Callable[[Path], None]] = {
    "is of user 12345": give_away,
    "is what others may write": lambda folder: folder.chmod(0o777),
    "is what others may write ": let_others_write_a_file,
    "is a link to elsewhere": put_a_link,
}


@pytest.mark.parametrize("fault", STRANGE)
def test_a_state_that_another_could_have_written_is_refused(fault: str) -> None:
    cut_off_at(5, Path("killed"))
    store, finished = ResumeStore("small/minillm", "a"), FinishedResponses("small/sft", "a")
    store.save(State(1, {}, {}))
    finished.add({0: Sampled([1, 0], False)})
    seal(finished.folder)
    assert FinishedResponses("small/sft", "a").found and store.load() is not None
    attempts: dict[Path, Callable[[], object]] = {
        Path("killed/checkpoint-4"): lambda: train(Path("killed")),
        store.folder / "step-00000001": store.load,
        finished.folder: lambda: FinishedResponses("small/sft", "a"),
    }
    for folder, go_on in attempts.items():
        assert folder.stat().st_mode & 0o077 == 0, "only its user enters a state's folder"
        Path("elsewhere").unlink(missing_ok=True)
        STRANGE[fault](folder)
        with pytest.raises(
            DataError, match=f"{folder}.* {fault.strip()}: a run goes on only from a state that nobody else"
        ):
            go_on()


def test_tensors_are_written_and_read_a_few_at_a_time() -> None:
    tensors = {f"layer {number}": torch.full((4,), float(number)) for number in range(5)}
    write_tensors(Path(), "weights", iter(tensors.items()), bytes_a_file=32)
    assert [path.name for path in sorted(Path().iterdir())] == [f"weights-0000{n}.safetensors" for n in range(3)]
    found = StoredTensors(Path(), "weights")
    assert list(found) == list(tensors) and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert not StoredTensors(Path(), "optimiser")
