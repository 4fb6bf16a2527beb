"""The network as the environment describes it: proxies, and which addresses need none.

An address of this machine is never reached through a proxy. A proxy that cannot be used is named by its variable.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from distill.project.errors import SettingsError

_SCHEMES = ("http", "https", "all")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it."""

    variable: str
    url: str
    """It may hold a password: never shown."""

    def __str__(self) -> str:
        return f"the proxy of {self.variable} ({urlsplit(self.url).netloc.rpartition('@')[2]})"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    name = host.strip("[]").lower().rstrip(".")
    if name in (*_LOOPBACK, "localhost.localdomain", socket.gethostname().lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(socket.inet_aton(name) if ":" not in name else name.partition("%")[0])  # also `127.1`
    except (ValueError, OSError):
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def proxy_of(url: str) -> Proxy | None:
    """The proxy through which `url` is reached; None for a direct connection.

    Raises: SettingsError for one that cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or _is_excepted(host, parts.port):
        return None
    named = dict(_proxies())
    proxy = named.get(parts.scheme) or named.get("all")
    if proxy is not None and (reason := _refusal(proxy)):
        raise SettingsError(_unusable(proxy, reason))
    return proxy


def proxy_fault() -> str | None:
    """A sentence about a proxy of the environment that no connection can use; None when all can be used."""
    for _, proxy in _proxies():
        if reason := _refusal(proxy):
            return _unusable(proxy, reason)
    return None


def connection(url: str) -> dict[str, Any]:
    """The arguments with which httpx2 reaches `url`: its proxy if it has one, the trusted certificates, no `.netrc`.

    Raises: SettingsError for a proxy or certificates that cannot be used.
    """
    import httpx2 as httpx

    proxy = proxy_of(url)
    found: dict[str, Any] = {"trust_env": False, "proxy": None if proxy is None else proxy.url}
    if urlsplit(url).scheme != "https":
        found["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody, and costs no reading of files
    else:
        try:
            found["verify"] = httpx.create_ssl_context(trust_env=True)
        except OSError as error:
            raise SettingsError(
                f"the certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({error}); correct or unset it"
            ) from None
    return found


def keep_loopback_direct(environment: MutableMapping[str, str]) -> None:
    """Except this machine from the proxies of an environment, for the libraries that read them there."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        return
    given = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    names = [name.strip() for name in given.split(",") if name.strip()]
    merged = ",".join([*names, *(name for name in _LOOPBACK if name not in names)])
    environment.update({"no_proxy": merged, "NO_PROXY": merged})


def blamed_proxy(error: BaseException) -> str | None:
    """The sentence about an unusable proxy, if `error` began in the making of an HTTP client; None otherwise."""
    return proxy_fault() if any(_made_client(each) for each in _chain(error)) else None


def _proxies() -> Iterator[tuple[str, Proxy]]:
    """Each scheme with the proxy that the environment, or the system, names for it."""
    told = getproxies()
    for scheme in _SCHEMES:
        if url := told.get(scheme):
            names = [name for name in os.environ if name.lower() == f"{scheme}_proxy" and os.environ[name] == url]
            name = names[0] if names else "the system's settings"
            yield scheme, Proxy(name, url if "://" in url else f"http://{url}")


def _refusal(proxy: Proxy) -> str | None:
    """The reason for which the HTTP library takes no such proxy; nothing is sent."""
    import httpx2 as httpx

    try:
        parts = urlsplit(proxy.url)
        if not parts.hostname or parts.port == 0:
            return "it names no host and port"
        httpx.HTTPTransport(proxy=proxy.url, verify=False)
    except ImportError:
        return "this kind needs a further package: pip install socksio"
    except Exception:  # noqa: BLE001  every fault in an address; the library's words may repeat the password
        return f"`{proxy.url.partition('://')[0]}://…` is no address of a proxy that can be used; http://HOST:PORT is"
    return None


def _unusable(proxy: Proxy, reason: str) -> str:
    return f"the proxy in {proxy.variable} cannot be used ({reason}); correct or unset {proxy.variable}"


def _is_excepted(host: str, port: int | None) -> bool:
    """Whether NO_PROXY names a host: by name, domain, address or network."""
    if proxy_bypass(host) or (port is not None and proxy_bypass(f"{host}:{port}")):
        return True
    for entry in (part.strip().lower() for part in getproxies().get("no", "").split(",")):
        if entry == "*" or (entry.startswith("*.") and host.lower().endswith(entry[1:])):
            return True
        try:
            if ip_address(host) in ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _made_client(error: BaseException) -> bool:
    frame = error.__traceback__
    while frame is not None:
        module = str(frame.tb_frame.f_globals.get("__name__"))
        if module.startswith("httpx") and frame.tb_frame.f_code.co_name == "__init__":
            return True
        frame = frame.tb_next
    return False
