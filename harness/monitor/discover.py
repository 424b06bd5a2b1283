"""Where a pool's servers are: a list, the addresses of a name, or the pods of a label (read-only: nothing but `list pods` is asked)."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from harness.config.monitor import KubernetesSpec, PoolSpec
from harness.monitor.page import PageError
from harness.monitor.paid import server_of
from harness.monitor.scrape import fetch

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where Kubernetes puts a pod's own token and its CA
LIMIT_S = 10.0


async def servers_of(pool: PoolSpec, account: Path = ACCOUNT) -> dict[str, str]:
    """Name -> URL of the metrics page, of every server there is now. Raises PageError: it cannot be found out, and why."""
    if pool.dns is not None:
        return await _addresses(pool.dns)
    if pool.kubernetes is not None:
        return await _pods(pool.kubernetes, account)
    return {server_of(url): page_url(url) for url in pool.servers}


async def _addresses(name: str) -> dict[str, str]:
    host, _, port = name.rpartition(":")
    if not host or not port.isdigit():
        raise PageError(f"dns: {name!r} is not HOST:PORT")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=1)  # SOCK_STREAM
    except OSError as error:
        raise PageError(f"dns: {host}: {error.strerror or error}") from None
    addresses = sorted({str(address[0]) for *_, address in found})
    places = [f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses]
    return {place: f"http://{place}/metrics" for place in places}


async def _pods(spec: KubernetesSpec, account: Path) -> dict[str, str]:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise PageError("kubernetes: this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set)")
    try:
        token = (account / "token").read_text(encoding="utf-8").strip()  # anew each time: it is rotated
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except OSError as error:
        raise PageError(f"kubernetes: no service account: {error}") from None
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f"https://{place}/api/v1/namespaces/{quote(spec.namespace)}/pods?labelSelector={quote(spec.selector)}"
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        try:
            text = await fetch(client, url, LIMIT_S, headers)
        except PageError as error:
            hint = "; its role must allow: list pods" if "403" in str(error) else ""
            raise PageError(f"kubernetes: {error}{hint}") from None
    return pods_of(text, spec)


def pods_of(text: str, spec: KubernetesSpec) -> dict[str, str]:
    """Name -> URL of the pods that run and have an address, of an answer of the API server. Raises PageError."""
    try:
        items: list[Any] = json.loads(text)["items"]
        running = [item for item in items if item["status"].get("phase") == "Running" and item["status"].get("podIP")]
        found = {}
        for item in running:
            address = item["status"]["podIP"]
            place = f"[{address}]:{spec.port}" if ":" in address else f"{address}:{spec.port}"
            found[f"{item['metadata']['name']}:{spec.port}"] = f"http://{place}{spec.path}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PageError(f"kubernetes: the API server's answer is no list of pods: {error}") from None
    return found


def page_url(url: str) -> str:
    """The URL as a list may have it, with its scheme and the usual path."""
    whole = url if "//" in url else f"http://{url}"
    return whole if urlsplit(whole).path.strip("/") else f"{whole.rstrip('/')}/metrics"
