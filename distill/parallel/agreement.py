"""Whether all processes of a run have the same settings, data, code and libraries, before they train together."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from distill.parallel.processes import Processes
from distill.project.errors import DisagreementError

_SHOWN = 3


def require_same(processes: Processes, parts: Mapping[str, str]) -> None:
    """Compare `parts`, by what they are called, between the processes; all of them call it.

    Raises: DisagreementError in each process, naming the first that differs from process 0, its machine, and in what.
    """
    first, *others = processes.joined([(socket.gethostname(), dict(parts))])
    for rank, (host, theirs) in enumerate(others, start=1):
        differing = [name for name in sorted({*first[1], *theirs}) if first[1].get(name) != theirs.get(name)]
        if differing:
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            what = f"{', '.join(differing[:_SHOWN])}{more}"
            raise DisagreementError(
                f"process {rank} on {host} differs from process 0 on {first[0]} in {what}; bring both clones to the "
                "same commit, `git status` clean, and `dvc pull` or copy the data"
            )
