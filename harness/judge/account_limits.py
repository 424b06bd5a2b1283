"""The limits of an account: as they are declared, and over which time one is that a header names without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.config.limits import LimitsSpec

MINUTE_S, DAY_S = 60.0, 86_400.0
_WINDOWS_S = (1.0, MINUTE_S, 3600.0, DAY_S)
_WITHIN = 1.2  # estimates of one refilling limit agree so far
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """So many of a kind in any `window_s`; None: at any one time."""

    kind: str  # requests | tokens | input_tokens | output_tokens | concurrency
    window_s: float | None
    allowed: int


def declared_limits(spec: LimitsSpec) -> list[Limit]:
    named = (
        ("requests", MINUTE_S, spec.rpm),
        ("tokens", MINUTE_S, spec.tpm),
        ("input_tokens", MINUTE_S, spec.input_tpm),
        ("output_tokens", MINUTE_S, spec.output_tpm),
        ("requests", DAY_S, spec.rpd),
        ("tokens", DAY_S, spec.tpd),
        ("concurrency", None, spec.concurrency),
    )
    return [Limit(kind, window_s, allowed) for kind, window_s, allowed in named if allowed is not None]


def learned_window_s(seen: Sequence[tuple[int | None, int | None, float | None]]) -> float:
    """Over which time a limit is whose header does not say it, from (limit, remaining, reset_s) of replies.

    One that fills up steadily (OpenAI, Groq) is whole again after reset_s = window x (limit - remaining) / limit, so that every reply
    tells the same window; else it is a fixed one, not shorter than the longest reset that was seen, a minute at least.
    """
    estimates = [
        reset_s * limit / (limit - remaining)
        for limit, remaining, reset_s in seen
        if limit and remaining is not None and reset_s and limit > remaining
    ]
    if len(estimates) >= _FEWEST and max(estimates) <= _WITHIN * min(estimates):
        middle = median(estimates)
        return min(_WINDOWS_S, key=lambda window_s: max(window_s / middle, middle / window_s))
    longest_s = max((reset_s for _, _, reset_s in seen if reset_s is not None), default=0.0)
    return next((window_s for window_s in _WINDOWS_S[1:] if longest_s <= window_s * 1.02), DAY_S)
