"""What answers at a URL: its models, version and cache settings, read back over HTTP and never assumed."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from harness.base import clock
from harness.base.errors import ConfigError, RefusedError, TargetError
from harness.base.loopback import is_loopback
from harness.config.target import TargetSpec, place_of
from harness.measure.control_request import json_of, request
from harness.measure.request_headers import key_header, more_headers
from harness.records import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
_CLOCK_WARNED_S, _CLOCK_REFUSED_S = 60.0, 3600.0
_SHOWN_NAMES = 12
_MOST_TOKENS = 1 << 31  # of a context


@dataclass(frozen=True, slots=True)
class Served:
    """GET /models: the names served, and for the one asked for what vLLM adds (None elsewhere)."""

    names: tuple[str, ...]
    max_model_len: int | None
    root: str | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """GET /metrics of a vLLM server: None for the URL where there is none, `note` says what was seen."""

    url: str | None
    cache_config: Mapping[str, str]
    note: str


def base_url(raw: str, *, vllm: bool) -> str:
    """The URL under which /models and /completions stand: no slash at the end, `/v1` added where the path is empty
    (and for a vLLM server wherever it is missing). Raises ConfigError; a secret in the URL is not repeated.
    """
    try:
        parts = urlsplit(raw.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("url cannot be read", "(not shown)", "write it as http://HOST:PORT/v1") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ConfigError(
            "url carries a user name or password",
            f"host {host}",
            "put the key into an environment variable and name it in api_key_env",
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            "url carries a query or fragment",
            f"host {host}",
            "leave out everything from ? or # on; a key belongs into the variable named in api_key_env",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("url is not http:// or https://", raw[:200], "write it as http://HOST:PORT/v1")
    path = parts.path.rstrip("/")
    if path.endswith(("/completions", "/models", "/responses", "/messages")):
        raise ConfigError("url names one endpoint", raw[:200], "give the base that they share, usually ending in /v1")
    if not path or (vllm and not path.endswith("/v1")):
        path += "/v1"
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{path}"


def root_url(base: str) -> str:
    """The server's root, where vLLM has /health, /version, /metrics and /tokenize."""
    return base.removesuffix("/v1")


def endpoint(spec: TargetSpec, base: str, key: str | None, *, vllm: bool) -> Endpoint:
    """Where and how to send to the target of `spec` at its base URL. `vllm`: it understands vLLM's own fields."""
    return Endpoint(
        base,
        spec.model,
        spec.api,
        key,
        vllm_extensions=vllm,
        ca_file=spec.ca_file,
        body=spec.body,
        auth=spec.auth,
        headers=dict(spec.headers),
        request=dict(spec.request),
        output_limit=spec.output_limit,
        connections=spec.connections,
        proxy_env=spec.proxy_env,
    )


def client_of(endpoint: Endpoint) -> httpx.Client:
    """An HTTP client that says who asks as the load's own requests do. Raises ConfigError."""
    shown = key_header(endpoint.auth, endpoint.api_key) | more_headers(endpoint.api, endpoint.headers)
    return client(endpoint.base_url, endpoint.ca_file, shown, endpoint.proxy_env)


def client(
    base: str, ca_file: str | None = None, headers: Mapping[str, str] | None = None, proxy_env: str | None = None
) -> httpx.Client:
    """An HTTP client for one server, without a key; proxies of the environment are not asked for loopback, that of the variable
    `proxy_env` is. Raises ConfigError."""
    verify: ssl.SSLContext | bool = True
    if ca_file:
        try:
            verify = ssl.create_default_context(cafile=str(Path(ca_file).expanduser()))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                "ca_file cannot be used", ca_file, f"it must be a PEM file of certificates ({type(error).__name__})"
            ) from None
    return httpx.Client(
        trust_env=not is_loopback(base),
        proxy=None if proxy_env is None else os.environ.get(proxy_env),
        timeout=_TIMEOUT,
        verify=verify,
        headers=dict(headers or {}),
    )


def get(http: httpx.Client, url: str) -> httpx.Response:
    """GET, any status. Raises TargetError with the URL where nothing answers."""
    try:
        return request(http, "GET", url)
    except httpx.HTTPError as error:
        raise unreachable(url, error) from None


def unreachable(url: str, error: httpx.HTTPError) -> TargetError:
    """The error for a server that gives no answer: with the clock in mind where its certificate seems to be of another time."""
    what = f"{type(error).__name__}: {error}"[:200]
    if "not yet valid" in what or "has expired" in what:
        today = clock.utc_now().strftime("%Y-%m-%d %H:%M UTC")
        advice = f"this machine says that it is {today}: look at `date`; if that is right, the certificate is wrong"
        return TargetError("the server's certificate is of another time", f"{url}: {what}", advice)
    if "certificate verify failed" in what:
        return TargetError("the server's certificate is not trusted", f"{url}: {what}", "name its CA's file in ca_file")
    return TargetError("the server cannot be reached", url, f"{what}; is it running, and is the URL right?")


def check_clock(answer: httpx.Response, url: str) -> str | None:
    """How far this machine's clock is from the server's where that is worth a warning, by the answer's date and the time that a cache held
    it. Raises TargetError for more than an hour: prices, days of a budget and times to wait go by the date."""
    try:
        theirs = parsedate_to_datetime(answer.headers["date"])
        off_s = (clock.utc_now() - theirs).total_seconds() - float(answer.headers.get("age") or 0)
    except (KeyError, ValueError, TypeError, OverflowError):  # no date, none that can be read, or one without a zone
        return None
    how = f"this machine's clock is {abs(off_s):,.0f} s {'ahead of' if off_s > 0 else 'behind'} the server's"
    if abs(off_s) > _CLOCK_REFUSED_S:
        advice = f"look at `date`: it says {clock.utc_now():%Y-%m-%d %H:%M} UTC, the server {theirs:%Y-%m-%d %H:%M}"
        raise TargetError("this machine's clock is not the server's", f"{url}: {how}", advice)
    return how if abs(off_s) > _CLOCK_WARNED_S else None


def models(http: httpx.Client, base: str, wanted: str) -> Served | int:
    """GET /models; the HTTP status where it is not 200. Raises TargetError for no answer, or a body of another kind."""
    return served_by(get(http, f"{base}/models"), wanted)


def served_by(answer: httpx.Response, wanted: str) -> Served | int:
    """The same of an answer that is here."""
    url = str(answer.request.url)
    if answer.status_code != 200:
        return answer.status_code
    try:
        cards: list[dict[str, Any]] = json_of(answer)["data"]
        names = tuple(str(card["id"]) for card in cards)
        card = next((c for c in cards if c["id"] == wanted), {})
        length, root = card.get("max_model_len"), card.get("root")
        if length is not None and (not isinstance(length, int) or not 0 < length <= _MOST_TOKENS):
            raise ValueError(length)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TargetError(
            "the answer to /models is not an OpenAI API's", url, "is this the base URL of an OpenAI-compatible server?"
        ) from None
    return Served(names, length, str(root) if root is not None else None)


def refused(status: int, url: str, spec: TargetSpec) -> RefusedError:
    """The error for a 401 or 403."""
    place = place_of(spec)
    held = f"{place} was refused" if place else "no key was sent: name its variable in api_key_env"
    return RefusedError(f"the server refused the key (HTTP {status})", url, held)


def names_shown(names: tuple[str, ...]) -> str:
    """A server's model names for a message, cut where there are many."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (", ".join(names[:_SHOWN_NAMES]) or "none") + more


def version(http: httpx.Client, base: str) -> tuple[str | None, str]:
    """vLLM's version from /version, and what was seen there."""
    answer = get(http, f"{root_url(base)}/version")
    if answer.status_code != 200:
        return None, f"absent (HTTP {answer.status_code})"
    try:
        number = str(json_of(answer)["version"])
    except (ValueError, KeyError, TypeError):
        return None, "absent (not vLLM's answer)"
    return number, number


def metrics(http: httpx.Client, base: str) -> Metrics:
    """Look for /metrics and read `vllm:cache_config_info` from it."""
    return metrics_at(http, f"{root_url(base)}/metrics")


def metrics_at(http: httpx.Client, url: str) -> Metrics:
    """The same at a page's whole address."""
    answer = get(http, url)
    if answer.status_code != 200:
        return Metrics(None, {}, f"absent (HTTP {answer.status_code})")
    try:
        families = list(text_string_to_metric_families(answer.text))
    except (ValueError, KeyError, IndexError):
        return Metrics(None, {}, "absent (not Prometheus text)")
    ours = [f for f in families if f.name.startswith("vllm:")]
    if not ours:
        return Metrics(None, {}, "absent (no vllm: series)")
    info = next((s.labels for f in ours for s in f.samples if s.name == "vllm:cache_config_info"), {})
    return Metrics(url, dict(info), f"{len(ours)} vllm: families")
