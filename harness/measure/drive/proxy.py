"""The proxy on the way to a target: which one the environment names, and the tunnel through it (CONNECT, RFC 9110, 9.3.6).

The same variables as everywhere (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY); a loopback address is reached directly unless the
target's `proxy_env` names a variable of its own.
"""

from __future__ import annotations

import base64
import errno
import os
import re
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote, urlsplit

from harness.base import redaction
from harness.base.errors import ConfigError
from harness.base.loopback import is_loopback

_PORTS = {"http": 80, "https": 443}
_MOST_HEAD_BYTES = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n)")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it listens; `authorization`: value of its own header, None where it wants none. Neither repr nor manifest has it."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class _Socket(Protocol):
    def send(self, data: bytes, /) -> int: ...
    def recv(self, size: int, /) -> bytes: ...


class ProxyError(OSError):
    """The proxy opens no tunnel; the text says why, without what it wrote."""


def url_of(base_url: str, variable: str | None) -> str | None:
    """The proxy's URL for a target, None for none: it may hold a password. `variable`: the target's `proxy_env`, which counts for loopback
    and whatever NO_PROXY says. Raises ConfigError, without the value."""
    if variable is not None:
        if not (value := os.environ.get(variable, "").strip()):
            raise ConfigError("the proxy's environment variable is not set", variable, "set it, or leave proxy_env out")
        return value
    from urllib.request import getproxies_environment, proxy_bypass  # no worker asks

    parts = urlsplit(base_url)
    if parts.scheme not in _PORTS or not parts.hostname or is_loopback(base_url):
        return None
    if proxy_bypass(f"{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"):
        return None
    named = getproxies_environment()
    return (named.get(parts.scheme) or named.get("all") or "").strip() or None


def of_target(base_url: str, variable: str | None = None) -> Proxy | None:
    """The proxy of a target; its password is known as a secret from then on. Raises ConfigError for one that cannot be used."""
    url = url_of(base_url, variable)
    if url is None:
        return None
    what = variable or "the environment's proxy (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise ConfigError(
            "a proxy's URL cannot be read", what, "write it as http://HOST:PORT, USER:PASSWORD@ before HOST"
        )
    if parts.scheme != "http":
        raise ConfigError(
            "a proxy of this kind cannot be used", f"{what}: {parts.scheme}://", "give one that is reached by http://"
        )
    authorization = None
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        redaction.learn(password)
        redaction.learn(authorization.partition(" ")[2])
    return Proxy(host, port or _PORTS["http"], authorization)


class Tunnel:
    """A CONNECT under way on a socket that stands. `pending`: what the kernel did not take yet."""

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        where = f"{f'[{host}]' if ':' in host else host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"host: {where}", "user-agent: vllm-cost-harness"]
        if proxy.authorization is not None:
            lines.append(f"proxy-authorization: {proxy.authorization}")
        self._name, self._head = proxy.name, b""
        self.pending = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")

    def step(self, sock: _Socket, *, readable: bool) -> bool:
        """One step; True when bytes go through to the target. Raises ProxyError, BlockingIOError."""
        if self.pending:
            self.pending = self.pending[sock.send(self.pending) :]
        if not readable:
            return False
        data = sock.recv(4096)
        if not data:
            raise ProxyError(errno.ECONNRESET, f"proxy {self._name} closed the connection after CONNECT")
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _MOST_HEAD_BYTES:
                raise ProxyError(errno.EPROTO, f"proxy {self._name} does not answer CONNECT as HTTP/1.1")
            return False
        found = _STATUS.match(self._head)
        if found is None or end + 4 != len(self._head):
            raise ProxyError(errno.EPROTO, f"proxy {self._name} does not answer CONNECT as HTTP/1.1")
        status = int(found[1])
        if 200 <= status < 300:
            return True
        hint = ": it wants a user name and password, or others" if status == 407 else ""
        raise ProxyError(errno.EACCES, f"proxy {self._name} answers HTTP {status} to CONNECT{hint}")
