"""What changed since a commit: settings, data, code, and every metric with its verdict.

python -m commands.compare HEAD~1
python -m commands.compare main --fail-if-worse              # exit code 2 when a metric got worse, for gates
python -m commands.compare HEAD~1 --markdown compare.md      # for a pull request too
python -m commands.compare HEAD~1 --json -                   # for a program: to a file, or `-` for standard output
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from distill.project.errors import EXIT_BAD_INPUT, DataError, SettingsError, run_stage
from distill.project.files import read_json, write_json, write_text
from distill.scoring.changes import compare
from distill.scoring.comparison import CommitComparison, to_json, to_markdown, to_terminal

CODE = ("distill", "stages")


def main() -> None:
    """Print the comparison of the working tree with a commit."""
    parser = argparse.ArgumentParser(prog="python -m commands.compare", description=__doc__.splitlines()[0])
    parser.add_argument("rev", help="a commit, branch or tag")
    parser.add_argument("--fail-if-worse", action="store_true", help="exit with code 2 when a metric got worse")
    parser.add_argument("--markdown", type=Path, help="write the comparison as Markdown to this file too")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the comparison as JSON to this file; - prints it, and no table"
    )
    arguments = parser.parse_args()
    for file in (arguments.markdown, arguments.json):
        if file is not None and file.is_dir():
            raise SettingsError(f"{file} is a folder; name a file to write the comparison to")
    commit = _run("git", "log", "-1", "--format=%h %s", arguments.rev, "--").strip()
    moved = _dvc("metrics", "diff", arguments.rev)
    metrics = [
        change
        for path, names in moved.items()
        for change in compare(_at(arguments.rev, path), _now(path), Path(path).stem, set(names))
    ]
    found = CommitComparison(
        commit=commit,
        metrics=metrics,
        settings={
            f"{path}: {key}": (pair.get("old"), pair.get("new"))
            for path, keys in _dvc("params", "diff", arguments.rev).items()
            for key, pair in keys.items()
        },
        data=_data(arguments.rev),
        code=_code(arguments.rev),
        stale=len(_dvc("status")),
    )
    if arguments.json == Path("-"):
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        to_terminal(found)
        if arguments.json is not None:
            write_json(arguments.json, to_json(found))
    if arguments.markdown is not None:
        write_text(arguments.markdown, to_markdown(found))
    if arguments.fail_if_worse and found.worse:
        raise SystemExit(EXIT_BAD_INPUT)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr.strip() or done.stdout.strip() or "no reason given").split())
        raise SettingsError(f"`{' '.join(command)}` failed: {reason}; check that this is a git clone with that commit")
    return done.stdout


def _dvc(*arguments: str) -> dict[str, Any]:
    rest = ("--json", *arguments[2:]) if len(arguments) > 1 else ("--json",)
    said = _run(sys.executable, "-m", "dvc", "--wait-for-lock", *arguments[:2], *rest)
    found: dict[str, Any] = json.loads(said or "{}")
    return found


def _at(rev: str, path: str) -> Any:
    """A results file of a commit; {} where it had none."""
    shown = subprocess.run(["git", "show", f"{rev}:{path}"], capture_output=True, text=True, check=False)
    try:
        return json.loads(shown.stdout) if shown.returncode == 0 else {}
    except ValueError as error:
        raise DataError(f"{path} of {rev} is damaged ({error}); compare with another commit") from None


def _now(path: str) -> Any:
    return read_json(Path(path)) if Path(path).exists() else {}


def _data(rev: str) -> list[str]:
    """Files and folders whose recorded hash differs and that no code is, results of training left out."""
    known = _run("git", "ls-tree", "--name-only", rev, "dvc.lock").strip()
    old = _hashes(_run("git", "show", f"{rev}:dvc.lock")) if known else {}
    new = _hashes(Path("dvc.lock").read_text(encoding="utf-8")) if Path("dvc.lock").exists() else {}
    return sorted(path for path in old | new if old.get(path) != new.get(path))


def _hashes(lock: str) -> dict[str, str]:
    try:
        stages = YAML(typ="safe").load(lock)["stages"].values()
    except (YAMLError, LookupError, AttributeError, TypeError):
        raise DataError(
            "a dvc.lock is damaged; run `make repro`, or take the commit's by `git checkout dvc.lock`"
        ) from None
    built = ("runs/", "responses/", "scores/", "measures/", "analyses/", "verdicts/", "results/")
    return {
        dep["path"]: dep["md5"]
        for stage in stages
        for dep in stage.get("deps", [])
        if not dep["path"].startswith(built) and dep["path"].split("/")[0] not in CODE
    }


def _code(rev: str) -> dict[str, str]:
    """Source files of the pipeline that differ, with the lines that came and went."""
    changed = _run("git", "diff", "--numstat", rev, "--", *CODE).splitlines()
    rows = {path: f"+{plus} −{minus}" for plus, minus, path in (line.split("\t") for line in changed)}
    added = _run("git", "ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines()
    return rows | dict.fromkeys(added, "not in git")


if __name__ == "__main__":
    run_stage(main)
