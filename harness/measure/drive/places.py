"""Where a reply came from, as its head says it: the region or point of presence that an API or its edge names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_PLAIN = ("x-ms-region", "x-amz-cf-pop", "x-served-by", "x-vercel-id", "x-goog-region", "fly-region", "x-region")
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.:_-]{0,59}")
_CF_RAY = re.compile(r"[0-9a-f]{8,32}-([A-Z]{3})")
_BEFORE_IDS = re.compile(r"[a-z]{3}\d(?=::)")  # x-vercel-id: fra1::iad1::request
_CACHE_NODE = re.compile(r"cache-([a-z]{3})[a-z]*\d*")  # x-served-by: cache-fra-etou8220021-FRA


def replica_in(headers: Mapping[str, str], replicas: Collection[str]) -> str | None:
    """The replica (host:port) that a reply's head names: a router's header that has its address, as x-litellm-model-api-base; None where
    none does, or several."""
    named = {name for name in replicas for value in headers.values() if name in re.split(r"[/,; ]", value)}
    return named.pop() if len(named) == 1 else None


def tells_place(name: str) -> bool:
    """Whether a header of this name (lower case) may tell where a reply came from."""
    return name == "cf-ray" or name in _PLAIN


def places_in(headers: Mapping[str, str]) -> dict[str, str]:
    """header -> place, of those that tell one. What numbers a request (the first part of cf-ray) is left out: it is no place."""
    found: dict[str, str] = {}
    if ray := _CF_RAY.fullmatch(headers.get("cf-ray", "").strip()):
        found["cf-ray"] = ray[1]  # the airport of Cloudflare's data centre
    for name in _PLAIN:
        value = headers.get(name, "").strip()
        if name == "x-vercel-id" and (parts := _BEFORE_IDS.findall(value)):
            found[name] = " ".join(parts)
        elif name == "x-served-by" and (node := _CACHE_NODE.match(value)):
            found[name] = node[1].upper()
        elif name not in ("x-vercel-id", "x-served-by") and _PLACE.fullmatch(value):
            found[name] = value
    return found
