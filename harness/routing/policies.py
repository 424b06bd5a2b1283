"""The policies: each one pure function (state, request) -> side and why.

Planning uses average cost, routing marginal cost: a machine that is paid by the hour serves its next request for nothing until the
promise would break, the hosted side for its price. Around every rule stand the same two: a session stays where it began, and a side
that is down is left, but for a request now and then that asks whether it is back.

The cost rule lets a request wait on the own side for up to a share of what the promise leaves for waiting,

    0.6 + (most - 0.6) x worth        most = 3 - (3 - margin) x misses / allowed misses

`worth`: which share of the recent requests would be cheaper to host for each second that they would take of the own side. So the queue
itself says at which price a request is spilled: the longer it is, the dearer they are that still go in. And the misses that the promise
allows buy a longer queue: a machine that is loaded near its capacity has too few free places now and too many then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import floor

from harness.config.policy import PolicySpec
from harness.routing.state import HOSTED, OWN, Choice, RouteRequest, SideState, State, Which, other

Policy = Callable[[State, RouteRequest], Choice]

MONTH_S = 730 * 3600.0  # 8,760 hours a year / 12
# a side that is thought too slow and was not asked for so long gets one request: it may have changed
ASK_AGAIN_S = 30.0
# of what the promise leaves for waiting: for the cheapest to host, and for the dearest while no miss is used
_LEAST_WAIT, _MOST_WAIT = 0.6, 3.0
_WAITS = frozenset(("ttft_s", "ttft_from_schedule_s", "ttfvt_s"))
_ALONE = 1  # requests at once of a side that nothing is known of


def policy_of(spec: PolicySpec) -> Policy:
    """The rule of `spec`, with sessions and failover around it."""
    return partial(_guarded, spec, partial(_RULES[spec.rule], spec))


def _guarded(spec: PolicySpec, rule: Policy, state: State, request: RouteRequest) -> Choice:
    if spec.sticky and state.session_side is not None:
        choice = Choice(state.session_side, f"session {request.session} is there")
    else:
        choice = rule(state, request)
    wanted, spare = state.side(choice.side), state.side(other(choice.side))
    if wanted.is_up:
        return choice
    down = f"{wanted.name} is down ({wanted.failures} failures in a row)"
    if wanted.probe_is_due:
        return Choice(choice.side, f"{down}: asked whether it is back")
    if not spare.is_up:
        return Choice(choice.side, f"{down}, and so is {spare.name}")
    return Choice(other(choice.side), down)


# ---------------------------------------------------------------- the rules


def _share(spec: PolicySpec, state: State, _request: RouteRequest) -> Choice:
    """Evenly spread: the hosted side is never a whole request from its share."""
    share = spec.hosted_share or 0.0
    sent = state.own.sent + state.hosted.sent
    is_hosted = floor((sent + 1) * share + 1e-9) > state.hosted.sent
    return Choice(HOSTED if is_hosted else OWN, f"share {share:g} hosted")


def _concurrency(spec: PolicySpec, state: State, _request: RouteRequest) -> Choice:
    limit = spec.own_in_flight or 0
    is_full = state.own.load >= limit
    return Choice(HOSTED if is_full else OWN, f"{state.own.load:g} of {limit} in flight")


def _clock(spec: PolicySpec, state: State, _request: RouteRequest) -> Choice:
    hour = int(state.hour) % 24
    return Choice(HOSTED if hour in spec.hosted_hours else OWN, f"hour {hour}")


def _slo(spec: PolicySpec, state: State, request: RouteRequest) -> Choice:
    """To the own side while it keeps the promise; else to the hosted one, unless that would break it by more."""
    own, hosted = (_strain(spec, spec.margin, state, which, request) for which in (OWN, HOSTED))
    if own.keeps:
        return Choice(OWN, own.words)
    if not hosted.keeps and hosted.ratio >= own.ratio:
        return Choice(OWN, f"{own.words}; {hosted.words}: more")
    return Choice(HOSTED, own.words)


def _cost(spec: PolicySpec, state: State, request: RouteRequest) -> Choice:
    """The least marginal dollars among the sides that keep the promise; the own one of two that cost the same. The nearer the misses come
    to those allowed, the less of the promise is used, and a request that is cheap to host waits for the own side less."""
    used = min(1.0, state.misses / state.allowed_misses) if state.allowed_misses >= 1 else 1.0
    margin = 1.0 - (1.0 - spec.margin) * used
    marginal_usd = {OWN: spec.own_usd_per_request, HOSTED: _hosted_marginal_usd(spec, state, request)}
    most = _MOST_WAIT - (_MOST_WAIT - spec.margin) * used
    wait = _LEAST_WAIT + (most - _LEAST_WAIT) * state.worth if marginal_usd[OWN] < marginal_usd[HOSTED] else None
    strains = {
        OWN: _strain(spec, margin, state, OWN, request, wait),
        HOSTED: _strain(spec, margin, state, HOSTED, request),
    }
    keeping = [which for which in (OWN, HOSTED) if strains[which].keeps]
    if not keeping:
        side = min((OWN, HOSTED), key=lambda which: strains[which].ratio)
        return Choice(side, f"{strains[OWN].words}; {strains[HOSTED].words}")
    side = min(keeping, key=lambda which: marginal_usd[which])
    money = f"${marginal_usd[OWN]:.6f} own, ${marginal_usd[HOSTED]:.6f} hosted"
    left_out = "".join(f"; {strains[which].words}" for which in (OWN, HOSTED) if which not in keeping)
    return Choice(side, f"{money}{left_out}")


_RULES: dict[str, Callable[[PolicySpec, State, RouteRequest], Choice]] = {
    "slo": _slo,
    "cost": _cost,
    "concurrency": _concurrency,
    "share": _share,
    "clock": _clock,
}


def _hosted_marginal_usd(spec: PolicySpec, state: State, request: RouteRequest) -> float:
    """Its price; nothing within what is committed for the time so far."""
    committed_usd = spec.hosted_minimum_usd_per_month * state.elapsed_s / MONTH_S
    return 0.0 if state.hosted_usd + request.hosted_usd <= committed_usd else request.hosted_usd


# ---------------------------------------------------------------- would it keep the promise


class _Strain:
    """How much of the promise a side would take. `ratio`: the worst predicted metric over its limit."""

    __slots__ = ("keeps", "ratio", "words")

    def __init__(self, keeps: bool, ratio: float, words: str) -> None:
        self.keeps, self.ratio, self.words = keeps, ratio, words


def _strain(
    spec: PolicySpec, margin: float, state: State, which: Which, request: RouteRequest, wait: float | None = None
) -> _Strain:
    """`wait`: how much of the time that the promise leaves for waiting a first token may take; None: as much of the promise as `margin`."""
    side = state.side(which)
    if (usage := _kv_usage(side, request)) is not None and usage > spec.kv_limit:
        return _Strain(False, usage / spec.kv_limit, f"{side.name}: KV cache {usage:.0%} full")
    if not side.latency.rows:
        keeps = side.load < _ALONE
        return _Strain(keeps, 1 + side.load, f"{side.name}: nothing learned yet, {side.load:g} in flight")
    predicted = side.latency.predict(side.load, request.prompt_tokens, request.output_tokens)
    ratios = {name: predicted[name] / limit for name, limit in state.promise.items() if name in predicted}
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    if worst is None:
        return _Strain(True, 0.0, f"{side.name}: nothing is promised")
    words = f"{side.name}: {worst} {predicted[worst]:.3g} of {state.promise[worst]:.3g} at {side.load:g} in flight"
    if side.waiting:
        words += f", {side.waiting:g} waiting"
    limits = dict.fromkeys(ratios, margin)
    if wait is not None:
        idle = side.latency.predict(0, request.prompt_tokens, request.output_tokens)
        for name in _WAITS & ratios.keys():
            least = idle[name] / state.promise[name]
            limits[name] = least + wait * max(0.0, 1.0 - least)
    keeps = all(ratio <= limits[name] for name, ratio in ratios.items())
    if not keeps and side.quiet_s > ASK_AGAIN_S:
        return _Strain(True, ratios[worst], f"{words}; not asked for {side.quiet_s:.0f} s")
    return _Strain(keeps, ratios[worst], words)


def _kv_usage(side: SideState, request: RouteRequest) -> float | None:
    """Share of the KV cache in use with this request in it, None where the side does not tell."""
    if side.kv_usage is None:
        return None
    own = request.prompt_tokens + request.output_tokens
    return side.kv_usage + (own / side.kv_capacity_tokens if side.kv_capacity_tokens else 0.0)
