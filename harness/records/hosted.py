"""What is known of a run against a hosted API beside its numbers: every request sent, a hybrid's sides, the way there, the account's limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A row of a run against a hosted API as far as its bill is concerned. `usage`: as in RunSummary.usage, None where the API told none.

    `sent_utc_s`, `ended_utc_s`: seconds since 1970 by this machine's clock; None: not a byte went out, or it never ended.
    `bore_tokens`: a token of it was received. `finished`: the stream came to its end. `retried`: it had been sent once before in vain.
    """

    outcome: str
    http_status: int | None
    sent_utc_s: float | None
    ended_utc_s: float | None
    usage: tuple[int, ...] | None
    asked_prompt_tokens: int
    asked_output_tokens: int
    bore_tokens: bool
    finished: bool
    retried: bool


@dataclass(frozen=True, slots=True)
class SideOfRun:
    """One side's part of a hybrid's run. `offered`: its requests that the window's load offered; `good`: of them inside the promise, None
    where nothing was promised. `usage`, `sent`: as in RunSummary, of its requests alone."""

    name: str
    offered: int
    good: int | None
    usage: tuple[tuple[int, ...], ...] = field(repr=False, default=())
    sent: tuple[SentRequest, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class NetworkPath:
    """The way to a target at a URL, apart from its server, in seconds. `before` and `after`: its steps (dns_s, tcp_s, tunnel_s, tls_s)
    at the edges of the measured phase, those that there were.

    `round_trip_low_s`, `round_trip_high_s`: 5th and 95th percentile, with fewer than 20 the least and the greatest. `ttft_less_path_s`:
    median TTFT less the median round trip, an estimate, and less the others its `low` and `high`; None without a window.
    """

    round_trips: int
    failed: int
    round_trip_p50_s: float | None
    round_trip_low_s: float | None
    round_trip_high_s: float | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    ttft_p50_s: float | None
    ttft_less_path_s: float | None
    ttft_less_path_low_s: float | None
    ttft_less_path_high_s: float | None
    region: str | None  # declared
    places: Mapping[str, int]  # `header: place` -> answers that said so
    proxy: str | None
    connections: str  # kept | fresh
    begun_utc: str
    utc_hour: int | None


@dataclass(frozen=True, slots=True)
class AccountLimit:
    """One limit of the account, each per `window_s` (None: at any one time). `declared` in the config, `told` by the replies' heads (the
    last that they said); `allowed`: the smaller of them.

    `demand`: of the offered load, tokens as prompt + max_tokens; None in a closed loop. `most_admitted`: in any such stretch of the
    measured phase, of requests that were not refused.
    """

    kind: str  # requests | tokens | input_tokens | output_tokens | concurrency
    window_s: float | None
    declared: int | None
    told: int | None
    allowed: int
    demand: float | None
    most_admitted: float


@dataclass(frozen=True, slots=True)
class Account:
    """What an account sustains. `mode`: paced (held to its limits), driven (into them, by choice), or unlimited (nothing was said of
    limits). `held`: requests that waited for the pacing, `held_p99_s` how long.

    `refused`: replies with status 429. `requests_per_min`, `tokens_per_min`: ok requests of the window, and their prompt and output
    tokens by usage, over the time in which they were offered; None where some were refused and that took less than a minute, whose limits
    a burst does not show. `feasible_rps`: how many of such requests the limits allow, by the limit
    named `bound_by`; None where no limit is known.
    """

    mode: str
    held: int
    held_p99_s: float | None
    refused: int
    requests: int
    retry_after_p50_s: float | None
    requests_per_min: float | None
    tokens_per_min: float | None
    offered_rps: float | None
    feasible_rps: float | None
    bound_by: str | None
    limits: tuple[AccountLimit, ...]

    @property
    def feasible(self) -> bool | None:
        """Whether the limits allow the offered load at all; None where either is not known."""
        if self.feasible_rps is None or self.offered_rps is None:
            return None
        return self.offered_rps <= self.feasible_rps
