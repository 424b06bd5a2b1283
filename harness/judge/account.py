"""What an account sustains: what its limits allow, what the load asked of them, and what came through."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import ValidationError

from harness.config.limits import LimitsSpec
from harness.judge.account_limits import declared_limits, learned_window_s
from harness.judge.columns import BoolArray, FloatArray, Requests, floats, measured_of
from harness.judge.sides import names_of, of_side
from harness.records import Account, AccountLimit, Manifest, RunData, target_config

TOO_MANY = 429
PACED, DRIVEN, UNLIMITED = "paced", "driven", "unlimited"
A_MINUTE_S = 60.0  # most limits' window
_HELD_S = 0.005  # a request let go later than this after it was due was held back
_NAMES = {"requests": "requests", "tokens": "tokens", "input_tokens": "input tokens", "output_tokens": "output tokens"}


def declared(manifest: Manifest) -> LimitsSpec | None:
    """The limits that the config says of the run's target, of a hybrid's hosted side; None where it says nothing that can be read."""
    target = manifest.target_config
    if sides := target.get("sides"):
        target = target_config(manifest.config, sides[-1])
    limits = target.get("limits")
    try:
        return LimitsSpec.model_validate(limits) if limits is not None else None
    except ValidationError:
        return None


def mode_of(manifest: Manifest) -> str:
    """paced | driven | unlimited, as the config says it."""
    limits = declared(manifest)
    return UNLIMITED if limits is None else PACED if limits.pace else DRIVEN


def told(run: RunData) -> dict[tuple[str, float], int]:
    """(kind, window in s) -> what the last head that told this limit allowed."""
    frame = run.limits
    if frame is None or not len(frame):
        return {}
    found: dict[tuple[str, float], int] = {}
    for (kind, _), rows in frame.groupby(["kind", "source"], sort=False):
        limit, remaining, reset_s, window_s = (floats(rows, n) for n in ("limit", "remaining", "reset_s", "window_s"))
        seen = [
            (_whole(a), _whole(b), None if np.isnan(c) else float(c))
            for a, b, c in zip(limit, remaining, reset_s, strict=True)
        ]
        guessed_s = learned_window_s(seen)
        for allowed, seconds in zip(limit, window_s, strict=True):
            if not np.isnan(allowed):
                found[str(kind), guessed_s if np.isnan(seconds) else float(seconds)] = int(allowed)
    return found


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def limit_name(kind: str, window_s: float | None) -> str:
    """`requests a minute`, `requests in flight`."""
    if window_s is None:
        return "requests in flight"
    times = {1.0: "a second", 60.0: "a minute", 3600.0: "an hour", 86_400.0: "a day"}
    return f"{_NAMES.get(kind, kind)} {times.get(window_s, f'in {window_s:g} s')}"


def account_of(run: RunData, requests: Requests, scalars: Mapping[str, float | None]) -> Account | None:
    """None where nothing was said of limits and nothing was refused for them. Of a hybrid: of what was sent to its hosted side, where
    nothing is offered before the policy has chosen."""
    names = names_of(run)
    if names:
        run, scalars = of_side(run, names[-1]), {}
        requests = measured_of(run)
    mode, spec, heads = mode_of(run.manifest), declared(run.manifest), told(run)
    is_refused = requests.status.present & (requests.status.data == TOO_MANY)
    if mode == UNLIMITED and not heads and not is_refused.any():
        return None
    load = run.manifest.cell.load
    named = {(one.kind, one.window_s): one.allowed for one in declared_limits(spec)} if spec is not None else {}
    takes = _takes(requests)
    rate = None if load.is_closed or names else scalars.get("scheduled_rate_rps") or load.rate_rps
    e2el_s = _mean(requests.last_token.minus(requests.sent)[requests.ok])
    limits, allowed_rps = [], dict[str, float]()
    for kind, window_s in dict.fromkeys([*named, *heads]):
        mine, theirs = named.get((kind, window_s)), heads.get((kind, window_s or 0.0))
        allowed = min(one for one in (mine, theirs) if one is not None)
        each = e2el_s if window_s is None else _mean(takes[kind])
        if each:
            allowed_rps[limit_name(kind, window_s)] = allowed / each / (window_s or 1.0)
        demand = rate * each * (window_s or 1.0) if rate is not None and each else None
        most = _most_open(requests) if window_s is None else _most_in(requests, takes[kind], ~is_refused, window_s)
        limits.append(AccountLimit(kind, window_s, mine, theirs, allowed, demand, most))
    bound_by = min(allowed_rps, key=lambda name: allowed_rps[name]) if allowed_rps else None
    held = held_s(requests)
    waits = (
        floats(run.requests[run.requests["phase"] == "measure"], "retry_after_s") if is_refused.any() else np.zeros(0)
    )
    waits = waits[~np.isnan(waits)]
    shown = scalars if not is_refused.any() or _spans_s(requests) >= A_MINUTE_S else {}
    return Account(
        mode=mode,
        held=int((held > _HELD_S).sum()),
        held_p99_s=float(np.quantile(held, 0.99)) if len(held) else None,
        refused=int(is_refused.sum()),
        requests=requests.count,
        retry_after_p50_s=float(np.median(waits)) if len(waits) else None,
        requests_per_min=_per_minute(shown.get("request_rps")),
        tokens_per_min=_per_minute(shown.get("total_tps")),
        offered_rps=rate,
        feasible_rps=allowed_rps[bound_by] if bound_by else None,
        bound_by=bound_by,
        limits=tuple(limits),
    )


def held_s(requests: Requests) -> FloatArray:
    """How long the pacing held each request that it let go: from when it was due. In a closed loop that is when its slot was free."""
    due = requests.scheduled if requests.scheduled.present.any() else requests.due
    held = requests.released.minus(due)
    found: FloatArray = np.maximum(held[~np.isnan(held)], 0.0)
    return found


def _takes(requests: Requests) -> dict[str, FloatArray]:
    """What each request takes of a limit when it comes in: tokens as prompt (by usage where it is known) + max_tokens."""
    prompt = np.where(requests.prompt.present, requests.prompt.data, requests.target_prompt.data).astype(np.float64)
    most = requests.target_output.data.astype(np.float64)
    return {
        "requests": np.ones(requests.count),
        "tokens": prompt + most,
        "input_tokens": prompt,
        "output_tokens": most,
    }


def _spans_s(requests: Requests) -> float:
    sent = requests.sent.data[requests.sent.present]
    return float(np.ptp(sent)) / 1e9 if len(sent) else 0.0


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if len(values) and not np.isnan(values).any() else None


def _per_minute(per_s: float | None) -> float | None:
    return None if per_s is None else per_s * 60


def _most_in(requests: Requests, takes: FloatArray, admitted: BoolArray, window_s: float) -> float:
    """The most that admitted requests took in any stretch of so long, by when they were sent."""
    use = admitted & requests.sent.present
    order = np.argsort(requests.sent.data[use], kind="stable")
    sent, each = requests.sent.data[use][order], takes[use][order]
    if not len(sent):
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(each)])
    begin = np.searchsorted(sent, sent - int(window_s * 1e9), side="right")
    return float((sums[1:] - sums[begin]).max())


def _most_open(requests: Requests) -> float:
    """The most requests in flight at once."""
    use = requests.sent.present & requests.ended.present
    at = np.concatenate([requests.sent.data[use], requests.ended.data[use]])
    steps = np.concatenate([np.ones(use.sum()), -np.ones(use.sum())])
    order = np.lexsort((steps, at))
    return float(np.cumsum(steps[order]).max()) if len(at) else 0.0
