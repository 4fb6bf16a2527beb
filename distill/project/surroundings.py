"""What libraries ask of the system around a command, answered where the system does not; standard library only."""

from __future__ import annotations

import getpass
import io
import os
import sys
from pathlib import Path


def settle_surroundings() -> None:
    """Give libraries what they ask the system for where it has no answer, as in a container with a random user id.

    A name of the user, a home, and characters that the output can show: others become `?`.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # no USER, and no entry in the system's list of users
        os.environ["USER"] = f"uid{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        # It need not exist; a shared folder such as /tmp might hold other people's settings.
        os.environ["HOME"] = str(Path(".resume/home").resolve())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
