"""Proxies of the environment: none between this machine and itself, and a sentence for one that cannot be used.

distill/project/network.py holds the same for stages, which nothing here imports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tasks.errors import RebuildError

_SCHEMES = ("http", "https", "all")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def direct_loopback(environment: Mapping[str, str], *urls: str) -> dict[str, str]:
    """The variables that except this machine, and hosts of `urls` such as 127.0.0.2, from an environment's proxies."""
    if not any(name.lower() in {f"{scheme}_proxy" for scheme in _SCHEMES} for name in environment):
        return {}
    given = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    names = [name.strip() for name in given.split(",") if name.strip()]
    hosts = [host for url in urls if (host := urlsplit(url).hostname or "").startswith("127.")]
    merged = ",".join(dict.fromkeys([*names, *_LOOPBACK, *hosts]))
    return {"no_proxy": merged, "NO_PROXY": merged}


def use_direct_loopback(*urls: str) -> None:
    """Except this machine from the proxies of this process and its children.

    Raises: RebuildError for a proxy with which Prefect could make no client, not even one that does not use it.
    """
    import httpx  # only here: most of who imports this file asks no server

    os.environ.update(direct_loopback(os.environ, *urls))
    for scheme in _SCHEMES:
        url = getproxies().get(scheme)
        if not url:
            continue
        variable = _variable(scheme)
        try:
            httpx.HTTPTransport(proxy=url if "://" in url else f"http://{url}", verify=False)
        except ImportError:
            raise RebuildError(
                f"The proxy in {variable} is of a kind that needs a further package: pip install socksio, or "
                f"unset {variable}."
            ) from None
        except Exception:  # noqa: BLE001  every fault in an address; the library's words may repeat the password
            raise RebuildError(
                f"The proxy in {variable} cannot be used; write an address like http://HOST:PORT, or unset {variable}."
            ) from None


def proxy_variable(url: str) -> str | None:
    """The variable of the proxy through which `url` is asked; None without one."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return next((_variable(scheme) for scheme in (parts.scheme, "all") if getproxies().get(scheme)), None)


def _variable(scheme: str) -> str:
    names = [name for name in os.environ if name.lower() == f"{scheme}_proxy" and os.environ[name]]
    return names[0] if names else "the system's settings"
