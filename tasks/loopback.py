"""Proxies of the environment: none between this machine and itself, and a sentence for one that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies

from tasks.errors import RebuildError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def direct_loopback(environment: Mapping[str, str], *urls: str) -> dict[str, str]:
    """The variables that except this machine, and the hosts of `urls` on it, from an environment's proxies.

    distill/project/network.py does the same for the stages, which flows do not import.
    """
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        return {}
    given = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    names = [name.strip() for name in given.split(",") if name.strip()]
    hosts = [host for url in urls if (host := urlsplit(url).hostname or "").startswith("127.")]
    merged = ",".join(dict.fromkeys([*names, *_LOOPBACK, *hosts]))
    return {"no_proxy": merged, "NO_PROXY": merged}


def use_direct_loopback(*urls: str) -> None:
    """The same for this process. Raises: RebuildError for a proxy that no client here can be made with."""
    import httpx

    os.environ.update(direct_loopback(os.environ, *urls))
    for scheme in ("http", "https", "all"):
        if not (url := getproxies().get(scheme)):
            continue
        try:
            httpx.HTTPTransport(proxy=url if "://" in url else f"http://{url}", verify=False)
        except Exception as error:  # its words may repeat the password
            names = [name for name in os.environ if name.lower() == f"{scheme}_proxy"]
            reason = "needs a package: pip install 'httpx[socks]'" if isinstance(error, ImportError) else "has no use"
            variable = names[0] if names else "the system's settings"
            raise RebuildError(
                f"The proxy in {variable} {reason}.\nInstall that, write an address like http://HOST:PORT, or unset "
                f"{variable}."
            ) from None
