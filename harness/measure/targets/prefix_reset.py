"""Empties the prefix cache of a standing vLLM server before a cell (the target's `reset_prefix_cache: true`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from harness.base import clock
from harness.measure.control_request import json_of, request
from harness.measure.targets import identity

if TYPE_CHECKING:
    from harness.records import Endpoint

_LIMIT_S = 30.0
_TRIES, _AGAIN_S = 5, 0.5
_HELD = "failed: blocks of the cache are still held"


def reset_prefix_cache(endpoint: Endpoint) -> str:
    """POST /reset_prefix_cache; what came of it, in words for the manifest. Never raises: that prompts were seen before shows.

    vLLM has the path only with VLLM_SERVER_DEV_MODE=1. 0.32.0 answers 200 and {"success": false} while blocks are still held, and may be
    asked again (vllm/entrypoints/serve/dev/cache/api_router.py); older ones answer 200 and nothing.
    """
    url = f"{identity.root_url(endpoint.base_url)}/reset_prefix_cache"
    came = ""
    try:
        with identity.client(endpoint.base_url, endpoint.api_key, endpoint.ca_file) as http:
            for attempt in range(_TRIES):
                if attempt:
                    clock.sleep(_AGAIN_S)
                came = _ask(http, url)
                if came != _HELD:
                    break
    except httpx.HTTPError as error:
        return f"failed: {type(error).__name__}"
    return came


def _ask(http: httpx.Client, url: str) -> str:
    answer = request(http, "POST", url, total_s=_LIMIT_S)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return "failed: HTTP 404: the server has no such path; start it with VLLM_SERVER_DEV_MODE=1"
    if answer.status_code != httpx.codes.OK:
        return f"failed: HTTP {answer.status_code}"
    try:
        told = json_of(answer)
    except ValueError:
        return "done, as far as the server says"
    return _HELD if isinstance(told, dict) and told.get("success") is False else "done"
