"""`dvc plots diff`, typed by a user: the page draws its curves in a real browser and asks the network for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import Browser, chromium
from tests.small_repository import until

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = """
stages:
  train:
    cmd: python train.py
    deps: [train.py]
    params: [rate]
    plots:
      - runs/tiny/sft.curves: {x: step, cache: false}
"""
TRAIN = """
import pathlib

rate = float(pathlib.Path("params.yaml").read_text().split("rate: ")[1])
folder = pathlib.Path("runs/tiny/sft.curves")
folder.mkdir(parents=True, exist_ok=True)
for name in ("loss", "valid_rouge_l"):
    rows = [f"{step}\\t{rate / (step + 1)}" for step in range(20)]
    (folder / f"{name}.tsv").write_text("\\n".join([f"step\\t{name}", *rows, ""]))
"""

# For each chart that is drawn: the colours of its lines of twenty points.
LINES = """[...document.querySelectorAll('.vega-embed svg')].map(chart => {
    const paths = [...chart.querySelectorAll('path[stroke]')];
    const lines = paths.filter(path => path.getAttribute('d').split('L').length == 20);
    return [...new Set(lines.map(line => line.getAttribute('stroke')))].sort();
}).filter(colours => colours.length)"""


def run(root: Path, *command: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def dvc(root: Path, *arguments: str) -> str:
    return run(root, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit with two curves, run again with another setting."""
    root = tmp_path_factory.mktemp("plots")
    for name, content in (("dvc.yaml", PIPELINE), ("train.py", TRAIN), ("params.yaml", "rate: 1.0\n")):
        (root / name).write_text(content)
    run(root, "git", "init", "--quiet")
    dvc(root, "init", "--quiet")
    (root / ".dvc/.gitignore").write_bytes((ROOT / ".dvc/.gitignore").read_bytes())
    dvc(root, "repro", "--quiet")
    run(root, "git", "add", "--all")
    run(root, "git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "First")
    (root / "params.yaml").write_text("rate: 2.0\n")
    dvc(root, "repro", "--quiet")
    return root


def test_the_page_draws_offline(repository: Path, tmp_path: Path) -> None:
    program = chromium()
    page = repository / "dvc_plots/index.html"

    dvc(repository, "plots", "diff")
    with Browser(program, tmp_path / "before") as browser:
        browser.open(page.as_uri())
        assert any(url.startswith("https://") for url in browser.requests), "DVC's own page: why this test is here"

    run(repository, sys.executable, "-m", "commands.plots_page")
    dvc(repository, "plots", "diff")
    with Browser(program, tmp_path / "after") as browser:
        browser.show(1200, 900)
        browser.open(page.as_uri())
        until(lambda: browser.evaluate(LINES) == [["#13adc7", "#945dd6"]] * 2, seconds=30)
        assert browser.requests == [page.as_uri()]
        known = ("WARN Infinite extent", "The compiled spec uses Vega v5, but current version is")
        assert [message for message in browser.messages if not message.startswith(known)] == []
        browser.screenshot(tmp_path / "plots.png", whole=True)


def test_git_sees_nothing_of_it(repository: Path) -> None:
    run(repository, sys.executable, "-m", "commands.plots_page")
    status = run(repository, "git", "status", "--porcelain", "--untracked-files=all", ".dvc")
    assert status == "", "page and setting are ignored by git"
    config = (repository / ".dvc/config.local").read_text()
    assert "html_template = plots.html" in config


def test_the_setting_keeps_what_else_the_user_has_set(repository: Path) -> None:
    local = repository / ".dvc/config.local"
    local.write_text("[cache]\n    type = hardlink\n")
    run(repository, sys.executable, "-m", "commands.plots_page")
    assert "type = hardlink" in local.read_text()


def test_outside_of_a_clone_it_says_so(tmp_path: Path) -> None:
    told = run(tmp_path, sys.executable, "-m", "commands.plots_page", code=2)
    assert told == "error: there is no .dvc here; run this in the folder of dvc.yaml, in a clone of the project\n"
