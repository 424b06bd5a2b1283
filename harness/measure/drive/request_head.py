"""The first lines of a request, which all requests of a drive share. They hold the API key and stay in memory."""

from __future__ import annotations

from harness.measure.drive import dialect, wire
from harness.measure.drive.proxy import of_target
from harness.measure.request_headers import key_header, more_headers
from harness.records import Endpoint


def request_head(endpoint: Endpoint, method: str = "POST", path: str | None = None) -> bytes:
    """Request line and headers; `path` below the base URL, None: the API's own. Through a proxy a plain request names the whole URL
    (RFC 9112, 3.2.2), one by TLS goes through a tunnel. Raises ConfigError without quoting the key."""
    to = wire.destination(endpoint.base_url)
    proxy = of_target(endpoint.base_url, endpoint.proxy_env)
    whole = f"http://{to.host_header}" if proxy is not None and not to.tls else ""
    lines = [
        f"{method} {whole}{to.base_path}{dialect.path(endpoint) if path is None else path} HTTP/1.1",
        f"host: {to.host_header}",
        "user-agent: vllm-cost-harness",
    ]
    if method == "POST":
        lines += ["content-type: application/json", "accept: text/event-stream"]
    if endpoint.connections == "fresh":
        lines.append("connection: close")
    if whole and proxy is not None and proxy.authorization is not None:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    asked = key_header(endpoint.auth, endpoint.api_key) | more_headers(endpoint.api, endpoint.headers)
    lines += [f"{name}: {value}" for name, value in asked.items()]
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")
