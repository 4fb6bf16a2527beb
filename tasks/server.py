"""The Prefect server of a command: the configured one, that of `make serve`, or a temporary one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from prefect import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from tasks.errors import RebuildError
from tasks.loopback import proxy_variable, use_direct_loopback
from tasks.mappings import read_mapping

_NOTE = "server.json"  # inside PREFECT_HOME


@contextlib.contextmanager
def server(say: Callable[[str], None]) -> Iterator[str | None]:
    """Use a Prefect server for the flow runs inside; its API address, None for a temporary one.

    Raises: RebuildError when PREFECT_API_URL names a server that does not answer, or a proxy cannot be used.
    """
    settings = get_current_settings()
    use_direct_loopback(settings.api.url or "")
    if settings.api.url:
        if not answers(settings.api.url):
            proxy = proxy_variable(settings.api.url)
            raise RebuildError(
                f"No Prefect server answers at {settings.api.url}"
                f"{f', asked through the proxy in {proxy}' if proxy else ''}.\n"
                "Start it (`make serve`), or unset PREFECT_API_URL to use a temporary one."
            )
        yield settings.api.url
        return
    note = settings.home / _NOTE
    url = read_mapping(note).get("url")
    if isinstance(url, str) and answers(url):
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
        return
    say(
        "No Prefect server is running here: starting a temporary one, 10 to 60 s.\n"
        "(`make serve` keeps one running, with its UI.)"
    )
    _start_temporary()
    yield None


def _start_temporary() -> None:
    """Start the temporary server now, where its failure is a sentence. Raises: RebuildError when it does not answer."""
    try:
        get_client(sync_client=True)  # starts the one server that all clients of this process share
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise RebuildError(
            f"The temporary Prefect server did not start ({reason})\n"
            "Run this again when the machine is less busy, raise PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or "
            "build without a server: make repro."
        ) from None


def answers(url: str, seconds: float = 10.0) -> bool:
    """Whether a Prefect server is healthy at `url`, e.g. http://127.0.0.1:4200/api."""
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        return httpx.get(f"{url}/health", timeout=seconds).is_success
    return False


def write_note(home: Path, url: str) -> None:
    """Tell later commands of this project about a server that runs at `url`."""
    (home / _NOTE).write_text(json.dumps({"url": url}))
