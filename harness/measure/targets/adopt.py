"""A vLLM server that somebody else started: identified, its prefix cache emptied where asked, measured, left running."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import httpx

from harness.base import clock
from harness.base.errors import TargetError
from harness.measure.control_request import json_of, request
from harness.measure.targets import identity
from harness.measure.targets.key import read_key
from harness.measure.targets.target import Target
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Endpoint, TargetInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.config.target import TargetSpec


_RESET_LIMIT_S = 30.0
_RESET_TRIES, _RESET_AGAIN_S = 5, 0.5
_HELD = "failed: blocks of the cache are still held"


def adopt(spec: TargetSpec, say: Callable[[str], None]) -> Target:
    """Reach the vLLM server at `spec.url`. Raises ConfigError (url, key variable) and TargetError (does not answer,
    refuses the key, does not serve the model)."""
    assert spec.url
    base = identity.base_url(spec.url, vllm=True)
    endpoint = identity.endpoint(spec, base, read_key(spec), vllm=True)
    say(f"{spec.name}: asking {base} what it is")
    if spec.in_turn:
        endpoint = replace(endpoint, replicas=tuple(identity.base_url(url, vllm=True) for url in spec.replicas))
    for replica in spec.replicas:
        _serves(replica, endpoint, spec)
    with identity.client_of(endpoint) as http:
        served = identity.models(http, base, spec.model)
        if isinstance(served, int):
            if served in (401, 403):
                raise identity.refused(served, base, spec)
            raise TargetError(f"/models answers HTTP {served}", base, "is this the URL of a vLLM server?")
        if spec.model not in served.names:
            raise TargetError(
                f"the server at {base} does not serve the model asked for",
                spec.model,
                f"it serves: {identity.names_shown(served.names)}",
            )
        version, version_seen = identity.version(http, base)
        metrics = _pages(spec.metrics_urls) if spec.metrics_urls else identity.metrics(http, base)
    words = vocabulary(endpoint, read_words())
    checks = {
        "model": f"listed by /v1/models among {len(served.names)}",
        "model_root": served.root or "not told",
        "version": version_seen,
        "metrics": metrics.note,
        "vocabulary": words.source,
    }
    say(f"{spec.name}: {spec.model}, vLLM {version_seen}, metrics {metrics.note}")
    info = TargetInfo(
        name=spec.name,
        kind=spec.kind,
        base_url=base,
        model=spec.model,
        max_model_len=served.max_model_len,
        server_version=version,
        flags=dict(spec.flags),
        cache_config=metrics.cache_config,
        pids=(),
        startup=None,
        metrics_url=metrics.url,
        checks=checks,
    )
    return Target(info, endpoint, words)


def _serves(replica: str, endpoint: Endpoint, spec: TargetSpec) -> None:
    """Raises TargetError for a replica that does not answer or has another model: a part of the load would measure something else."""
    base = identity.base_url(replica, vllm=True)
    with identity.client_of(replace(endpoint, base_url=base)) as http:
        served = identity.models(http, base, spec.model)
    if isinstance(served, int):
        raise TargetError(f"a replica's /models answers HTTP {served}", base, "is this the URL of a vLLM server?")
    if spec.model not in served.names:
        names = f"{spec.model}; it serves: {identity.names_shown(served.names)}"
        raise TargetError(
            f"the replica at {base} does not serve the model asked for", names, "start all with one model"
        )


def _pages(urls: Sequence[str]) -> identity.Metrics:
    """Every page of `metrics_urls`, asked without the target's key: it may be another host's. Raises TargetError for one that is none
    of vLLM's: counters summed without it would be too small."""
    first: identity.Metrics | None = None
    for url in urls:
        with identity.client(url) as http:
            page = identity.metrics_at(http, url)
        if page.url is None:
            raise TargetError("a page of metrics_urls is none of a vLLM server", url, f"it is {page.note}")
        first = first or page
    assert first is not None
    return identity.Metrics(first.url, first.cache_config, f"{len(urls)} pages, {first.note} on the first")


# ---------------------------------------------------------------- its prefix cache


def reset_prefix_cache(endpoint: Endpoint) -> str:
    """POST /reset_prefix_cache (the target's `reset_prefix_cache: true`, before a cell); what came of it, in words for the manifest.
    Never raises: that prompts were seen before shows.

    vLLM has the path only with VLLM_SERVER_DEV_MODE=1. 0.32.0 answers 200 and {"success": false} while blocks are still held, and may be
    asked again (vllm/entrypoints/serve/dev/cache/api_router.py); older ones answer 200 and nothing.
    """
    url = f"{identity.root_url(endpoint.base_url)}/reset_prefix_cache"
    result = ""
    try:
        with identity.client_of(endpoint) as http:
            for attempt in range(_RESET_TRIES):
                if attempt:
                    clock.sleep(_RESET_AGAIN_S)
                result = _ask_reset(http, url)
                if result != _HELD:
                    break
    except httpx.HTTPError as error:
        return f"failed: {type(error).__name__}"
    return result


def _ask_reset(http: httpx.Client, url: str) -> str:
    answer = request(http, "POST", url, total_s=_RESET_LIMIT_S)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return "failed: HTTP 404: the server has no such path; start it with VLLM_SERVER_DEV_MODE=1"
    if answer.status_code != httpx.codes.OK:
        return f"failed: HTTP {answer.status_code}"
    try:
        reply = json_of(answer)
    except ValueError:
        return "done, as far as the server says"
    return _HELD if isinstance(reply, dict) and reply.get("success") is False else "done"
