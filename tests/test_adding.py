"""docs/adding.md followed to the letter: an objective of one's own, trained and measured, and nothing else touched."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.declared_stages import dependency_faults, read_pipeline
from tests.tiny_pipeline import MINI, ROOT, SMALL, built, dvc, edit, run, set_methods, stale, start, weights

NAME = "total_variation"
# The page's section is for the toy's size; the small pipeline has less to learn and fewer hours.
SHORTER = {"batch_size": 32, "epochs": 1, "evaluate_every": 1}
SECTIONS = {
    "reverse_kl": {"learning_rate": 1e-3, "batch_size": 32, "epochs": 1},
    "jsd": {"learning_rate": 1e-3, "batch_size": 32, "epochs": 1, "beta": 0.1, "scale": "even"},
    "skew_kl": {"learning_rate": 1e-3, "batch_size": 32, "epochs": 1, "direction": "forward"},
    "own_reverse_kl": {"learning_rate": 1e-3, "rollouts": 64, "minibatch": 32, "inner_epochs": 1, "max_steps": 2},
    "gkd": {
        "learning_rate": 1e-3,
        "rollouts": 64,
        "minibatch": 32,
        "inner_epochs": 1,
        "max_steps": 2,
        "own_share": 0.5,
    },
    "own_skew_kl": {"learning_rate": 1e-3, "rollouts": 64, "minibatch": 32, "inner_epochs": 1, "max_steps": 2},
}


@pytest.fixture
def project(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built clone of one's own."""
    root = tmp_path / "clone"
    shutil.copytree(built(tmp_path_factory), root, symlinks=True)
    return root


def blocks_of_the_page(language: str) -> list[str]:
    """The code blocks in the section on an objective, without the list's indentation."""
    page = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
    section = page.partition("## An objective\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^   ```{language}\n(.*?)^   ```$", section, re.MULTILINE | re.DOTALL)
    return ["".join(line[3:] if line.strip() else line for line in block.splitlines(True)) for block in found]


def follow_the_page(root: Path) -> None:
    """Steps 1 to 4."""
    (python,), (block, section) = blocks_of_the_page("python"), blocks_of_the_page("yaml")
    (root / f"distill/objectives/{NAME}.py").write_text(python)
    graph = (root / "dvc.yaml").read_text()
    graph = graph.replace("\n  teacher_responses:", f"\n{block}\n  teacher_responses:", 1)
    graph = graph.replace("own_skew_kl: {}", f"own_skew_kl: {{}}, {NAME}: {{}}", 1)
    (root / "dvc.yaml").write_text(graph)
    profile = (root / MINI).read_text()
    (root / MINI).write_text(profile.replace("      minillm:", f"{section}      minillm:", 1))
    for name, value in SHORTER.items():
        edit(root / MINI, f"{SMALL}.{NAME}.{name}", value)


def test_the_page_is_right_to_the_letter(project: Path) -> None:
    follow_the_page(project)
    assert stale(project) == {}, "without step 4 nothing is out of date"
    said = run(project, sys.executable, "-m", "commands.check")
    assert "are sound" in said
    before = weights(project)

    set_methods(project, "sft", "minillm", NAME)
    run(project, sys.executable, "-m", "commands.check")
    pipeline = read_pipeline(project)
    assert [fault for stage in pipeline for fault in dependency_faults(stage, project)] == []
    own = {stage.name for stage in pipeline if NAME in stage.name}
    assert f"{NAME}@small" in own
    assert set(stale(project)) == own | {"results@small", "report"}

    dvc(project, "repro")
    after = weights(project)
    assert set(after) - set(before) == {f"runs/small/{NAME}/model.safetensors"}
    assert {place: after[place] for place in before} == before
    assert "Total variation" in (project / "results/report.md").read_text()


def test_a_method_without_a_section_is_an_error_that_names_both(project: Path) -> None:
    set_methods(project, "sft", "minillm", "jsd")
    ran = run_refused(project)
    assert (
        "profiles/mini.yaml: recipe.students.small has no section `jsd`, which the methods of params.yaml name" in ran
    )


def run_refused(root: Path) -> str:
    """What `commands.check` says when it finds a fault."""
    process = start(root, sys.executable, "-m", "commands.check")
    said = process.communicate()[0]
    assert process.returncode == 2, said
    return said


@pytest.mark.parametrize(
    "names", [("jsd", "gkd"), pytest.param(tuple(SECTIONS), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_divergences_train_on_rows_and_on_own_samples(project: Path, names: tuple[str, ...]) -> None:
    """One epoch each, by DVC: every one has losses of its own, and no other model is trained again."""
    before = weights(project)
    for name in names:
        edit(project / MINI, f"{SMALL}.{name}", SECTIONS[name])
    set_methods(project, "sft", "minillm", *names)
    dvc(project, "repro", *(f"{name}@small" for name in names))
    after = weights(project)
    assert {place: after[place] for place in before} == before
    losses = [(project / f"runs/small/{name}.curves/loss.tsv").read_text().split()[1:] for name in names]
    assert all(len(each) >= 4 for each in losses), losses
    assert len({tuple(each) for each in losses}) == len(names)
