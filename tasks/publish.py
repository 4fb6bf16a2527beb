"""Share a run's results: push them to DVC's remote, and commit the numbers to a branch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tasks.clone import dvc, git


def push(root: Path, stages: list[str]) -> None:
    """Push the outputs of `stages` and DVC's run cache, so that other clones restore instead of building.

    Raises: RebuildError with DVC's own words.
    """
    dvc(root, "push", "--run-cache", *stages)


def commit(root: Path, branch: str, paths: list[str], message: str, say: Callable[[str], None]) -> str | None:
    """Commit `paths` as they are to `branch`, push it to origin if there is one; None without a difference.

    The checked-out branch, the index and the working tree stay as they are. The new commit's parent is HEAD.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", "HEAD", extra=index)
        git(root, "add", "--force", "--", *[path for path in paths if (root / path).exists()], extra=index)
        tree = git(root, "write-tree", extra=index)
    if tree == git(root, "rev-parse", "HEAD^{tree}"):
        return None
    made = git(root, "commit-tree", tree, "-p", "HEAD", "-m", message)
    git(root, "update-ref", f"refs/heads/{branch}", made)
    if "origin" in git(root, "remote").split():
        # The branch belongs to these runs; what it held before is an older run's numbers.
        git(root, "push", "--quiet", "--force", "origin", f"{made}:refs/heads/{branch}")
    say(f"committed {', '.join(paths)} to {branch}: {made[:10]}")
    return made
