"""Any API that is not ours: reached with its key, spoken to as its documentation, its preset or its target says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.base.errors import TargetError
from harness.base.loopback import is_loopback
from harness.measure.targets import identity
from harness.measure.targets.key import read_key
from harness.measure.targets.target import Target
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import TargetInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.config.target import TargetSpec

# Some gateways have no list of models; that alone says nothing against them.
_NO_LIST = (404, 405, 501)


def reach(spec: TargetSpec, say: Callable[[str], None]) -> Target:
    """Check that the API at `spec.url` answers and takes the key; nothing is generated, so nothing is billed.

    Raises ConfigError (url, key variable) and TargetError (does not answer, refuses the key). A model that is not in
    the API's list is noted in `info.checks`, not refused: many APIs take aliases that they do not list.
    """
    assert spec.url
    base = identity.base_url(spec.url, vllm=False)
    key = read_key(spec)
    endpoint = identity.endpoint(spec, base, key, vllm=False)
    say(f"{spec.name}: asking {base} for its models")
    with identity.client_of(endpoint) as http:
        answer = identity.get(http, f"{base}/models")
    served = identity.served_by(answer, spec.model)
    checks: dict[str, str] = {}
    if clock_off := identity.check_clock(answer, base):
        checks["clock"] = clock_off
        say(f"warning: {spec.name}: {clock_off}")
    if spec.preset:
        checks["preset"] = f"{spec.preset.name} of {spec.preset.as_of}"
    if isinstance(served, int):
        if served in (401, 403):
            raise identity.refused(served, base, spec)
        if served not in _NO_LIST:
            raise TargetError(
                f"/models answers HTTP {served}", base, "is this the base URL of an OpenAI-compatible API?"
            )
        checks["model"] = f"not checked: /models answers HTTP {served}"
    elif spec.model in served.names:
        checks["model"] = f"listed by /models among {len(served.names)}"
    else:
        checks["model"] = f"not among the {len(served.names)} that /models lists"
        say(f"{spec.name}: {spec.model} is not listed by the API; it lists {identity.names_shown(served.names)}")
    if key and base.startswith("http://") and not is_loopback(base):
        checks["transport"] = "the key goes over the network without TLS"
        say(f"{spec.name}: {checks['transport']}")
    words = vocabulary(endpoint, read_words())
    checks["vocabulary"] = words.source
    info = TargetInfo(
        name=spec.name,
        kind=spec.kind,
        base_url=base,
        model=spec.model,
        max_model_len=None if isinstance(served, int) else served.max_model_len,
        server_version=None,
        flags=dict(spec.flags),
        cache_config={},
        pids=(),
        startup=None,
        metrics_url=None,
        checks=checks,
    )
    return Target(info, endpoint, words)
