"""A vLLM server that somebody else started: identified, measured, left running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.base.errors import TargetError
from harness.measure.targets import identity
from harness.measure.targets.target import Target
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Endpoint, TargetInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.config.target import TargetSpec


def adopt(spec: TargetSpec, say: Callable[[str], None]) -> Target:
    """Reach the vLLM server at `spec.url`. Raises ConfigError (url, key variable) and TargetError (does not answer,
    refuses the key, does not serve the model)."""
    assert spec.url
    base = identity.base_url(spec.url, vllm=True)
    key = identity.api_key(spec.api_key_env)
    say(f"{spec.name}: asking {base} what it is")
    with identity.client(base, key, spec.ca_file) as http:
        served = identity.models(http, base, spec.model)
        if isinstance(served, int):
            if served in (401, 403):
                raise identity.refused(served, base, spec.api_key_env)
            raise TargetError(f"/models answers HTTP {served}", base, "is this the URL of a vLLM server?")
        if spec.model not in served.names:
            raise TargetError(
                f"the server at {base} does not serve the model asked for",
                spec.model,
                f"it serves: {identity.names_shown(served.names)}",
            )
        version, version_seen = identity.version(http, base)
        metrics = _pages(spec.metrics_urls) if spec.metrics_urls else identity.metrics(http, base)
    endpoint = Endpoint(base, spec.model, spec.api, key, vllm_extensions=True, ca_file=spec.ca_file, body=spec.body)
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


def _pages(urls: Sequence[str]) -> identity.Metrics:
    """Every page of `metrics_urls`, asked without the target's key: it may be another host's. Raises TargetError for one that is none
    of vLLM's: counters summed without it would be too small."""
    first: identity.Metrics | None = None
    for url in urls:
        with identity.client(url) as http:
            found = identity.metrics_at(http, url)
        if found.url is None:
            raise TargetError("a page of metrics_urls is none of a vLLM server", url, f"it is {found.note}")
        first = first or found
    assert first is not None
    return identity.Metrics(first.url, first.cache_config, f"{len(urls)} pages, {first.note} on the first")
