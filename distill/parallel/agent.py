"""What a launcher starts on another host over ssh: it runs the processes of that host, and ends with the connection.

Standard input brings one line of orders (JSON), then signals to pass on, one a line. When it closes, because the
launcher is gone or has ended the run, the processes are ended. Orders do not travel on the command line, where every
user of the host could read what the environment holds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from distill.parallel.group import Group, Place
from distill.project.running import alone


class _Line:
    """The launcher's end of standard input: signals that arrived, and whether it is closed."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.closed, self.waiting = False, True
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.signals.append(int(line))
        self.closed = True
        if self.waiting:  # for an earlier run to end; nothing is started yet
            os._exit(1)


def main() -> int:
    """Run the processes that the first line of standard input asks for; the exit code of the first that failed."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    os.environ.update(orders["environment"])
    place, line = Place(**orders["place"]), _Line()
    with alone(place.host):
        line.waiting = False
        group = Group(orders["arguments"], place, os.environ)
        try:
            while (code := group.poll()) is None and not line.closed:
                while line.signals:
                    group.ask(line.signals.pop(0))
                time.sleep(0.1)
        finally:
            group.end()
    return 1 if code is None else code


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher passes it on
    raise SystemExit(main())
