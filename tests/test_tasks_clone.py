"""Clones: brought to a ref without harm to anybody's work, and numbers committed without touching the checkout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.clone import check_out, enter, git, make_clone
from tasks.clone import dvc as experiment
from tasks.errors import RebuildError
from tasks.own_results import prefer_own_results
from tasks.publish import commit
from tests.small_repository import dvc

pytest_plugins = ["tests.prefect_fixtures"]

SAID: list[str] = []


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    root = tmp_path / "origin"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    write(root, "dvc.lock", "1")
    write(root, "params.yaml", "1")
    save(root, "one")
    return root


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    return tmp_path / "clone"


def write(root: Path, name: str, content: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(content)


def save(root: Path, message: str) -> None:
    git(root, "add", "--all")
    git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", message)


def test_a_ref_is_fetched_and_checked_out(origin: Path, clone: Path) -> None:
    write(origin, "params.yaml", "2")
    save(origin, "two")
    write(clone, "dvc.lock", "what an earlier rebuild wrote")
    assert check_out(clone, "main", SAID.append) == git(origin, "rev-parse", "main")
    assert (clone / "params.yaml").read_text() == "2"
    assert (clone / "dvc.lock").read_text() == "1"
    assert SAID[-1].endswith("two")


def test_work_of_others_is_left_alone(clone: Path) -> None:
    write(clone, "params.yaml", "mine")
    with pytest.raises(RebuildError, match=r"uncommitted changes: params\.yaml"):
        check_out(clone, "main", SAID.append)
    assert (clone / "params.yaml").read_text() == "mine"


def test_an_unknown_ref_is_named(clone: Path) -> None:
    with pytest.raises(RebuildError, match="knows no ref 'mian'"):
        check_out(clone, "mian", SAID.append)


def test_numbers_are_committed_beside_the_checkout(origin: Path, clone: Path) -> None:
    write(clone, "dvc.lock", "2")
    write(clone, "results/tiny.json", "{}")
    write(clone, "params.yaml", "not to be committed")
    head = git(clone, "rev-parse", "HEAD")
    made = commit(
        clone, "nightly/toy", ["dvc.lock", "results/tiny.json", "results/missing.json"], "Numbers", SAID.append
    )
    assert made == git(origin, "rev-parse", "nightly/toy")
    assert git(origin, "diff", "--name-only", "main", "nightly/toy").split() == ["dvc.lock", "results/tiny.json"]
    assert git(clone, "rev-parse", "HEAD") == head
    assert (clone / "params.yaml").read_text() == "not to be committed"
    write(clone, "dvc.lock", "1")
    (clone / "results/tiny.json").unlink()
    assert commit(clone, "nightly/toy", ["dvc.lock"], "Nothing", SAID.append) is None


def test_a_worker_says_where_it_must_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.delenv("REBUILD_CLONE", raising=False)
    with pytest.raises(RebuildError, match="no clone of the pipeline"):
        enter()
    (tmp_path / "dvc.yaml").touch()
    assert enter() == {"directory": str(tmp_path)}


RECORDED = """
stages:
  noted:
    cmd: python noted.py
    deps: [noted.py]
    outs: [noted]
"""
NOTED = "import os, pathlib\npathlib.Path('noted').mkdir()\npathlib.Path('noted/x').write_text(os.urandom(9).hex())\n"


def test_a_clone_takes_what_this_machine_built_where_the_commit_names_another_machines(repository: Path) -> None:
    (repository / "dvc.yaml").write_text(RECORDED)
    (repository / "noted.py").write_text(NOTED)
    dvc(repository, "repro", "noted")
    built = (repository / "noted/x").read_text()
    lock = repository / "dvc.lock"
    found = re.search(r"md5: (\w+)\.dir", lock.read_text())
    assert found is not None
    lock.write_text(lock.read_text().replace(found[1], "0" * 32))  # what the same command gave elsewhere
    save(repository, "Built on another machine")
    own = repository.with_name("own, with #1")
    make_clone(repository, own)
    assert len(prefer_own_results(own)) == 1
    assert "is cached - skipping run" in dvc(own, "repro", "noted")
    assert (own / "noted/x").read_text() == built
    assert prefer_own_results(own) == []


def test_only_a_clone_of_this_project_is_built_in(repository: Path, tmp_path: Path) -> None:
    (repository / ".dvc/tmp/mine").mkdir(parents=True)  # git would answer for the repository around it
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "--quiet")
    for folder in (repository / ".dvc/tmp/mine", tmp_path / "other", repository):
        with pytest.raises(RebuildError, match="is no clone of"):
            make_clone(repository, folder)
    assert not (repository / ".dvc/config.local").exists()


def test_a_failure_of_dvc_gives_its_reason(repository: Path) -> None:
    with pytest.raises(RebuildError, match=r"(?s)`dvc exp save --force` failed in .*first\.txt' does not exist"):
        experiment(repository, "exp", "save", "--force")
