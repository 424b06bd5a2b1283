"""What a config may say of the offered load: points of a closed or an open loop, or a search for the capacity."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from harness.base import bounds
from harness.base.bounds import Spec, within
from harness.records import Load

_NUMBER = r"\d+(?:\.\d+)?"
_ARRIVALS = re.compile(
    rf"poisson|constant|batch|preset|trace(:{_NUMBER})?|gamma:{_NUMBER}|onoff:{_NUMBER}:{_NUMBER}(:{_NUMBER})?"
    rf"|diurnal:[a-z0-9/-]+(:{_NUMBER})?|ramp(:{_NUMBER}-{_NUMBER})?|step:{_NUMBER}(,{_NUMBER})*"
)
_OWN_TIMES = ("batch", "preset", "trace")  # arrivals that need no rate

# Of a probe whose length was not declared, shortest and longest: requests that tell a share of 99 % (120 misses at the target in the
# longest); E2ELs that hold a window (it needs 6.5 settling times, each up to 3 E2EL); seconds that hold one of 5 s; and the most.
_REQUESTS, _STAYS, _LEAST_S, _MOST_S = (1_200, 12_000), (7, 20), (10.0, 30.0), (60.0, 600.0)
_UNKNOWN_STAY_S = 4.0  # E2EL before a probe has told it


class CapacitySpec(Spec):
    """A search for the highest Poisson rate whose attainment is at `slo.attainment`; rates in requests/s.

    A probe that is not clear lasts `probe_s[1]` seconds of schedule; one that passes lasts `probe_s[0]` at least. Without `probe_s`
    they follow from the rate and from the E2EL seen, see `lengths_s`.
    """

    start_rps: bounds.Rate = Field(
        description="first guess, e.g. from a closed loop; a factor of 10 off costs about 4 probes"
    )
    min_rps: bounds.Rate | None = Field(default=None, description="lowest rate tried; default start_rps / 64")
    max_rps: bounds.Rate | None = Field(default=None, description="highest rate tried; default 64 x start_rps")
    probe_s: tuple[bounds.SecondsOrNone, bounds.SecondsOrNone] | None = Field(
        default=None,
        description="shortest and longest probe, seconds; None: 1,200 and 12,000 requests, 7 and 20 E2EL, at most 60 and 600 s",
    )
    probes: int = Field(default=12, ge=2, le=12)
    tolerance: Annotated[float, within(1e-3, 0.5, "half an interval as a share of the capacity")] = Field(
        default=0.03, gt=0, le=0.5, description="half-width of the interval at which the search ends, share of capacity"
    )

    @property
    def lowest_rps(self) -> float:
        return self.start_rps / 64 if self.min_rps is None else self.min_rps

    @property
    def highest_rps(self) -> float:
        return self.start_rps * 64 if self.max_rps is None else self.max_rps

    def lengths_s(self, rate_rps: float, attainment: float, stay_s: float | None = None) -> tuple[float, float]:
        """(shortest, longest) probe at a rate, seconds of schedule: as declared, else what the requests take that tell a share of
        `attainment` (as many misses as at 99 %, where it is higher), and several E2EL, `stay_s`; no longer than a minute and ten,
        but as many E2EL as they hold."""
        if self.probe_s is not None:
            return self.probe_s
        stay_s = _UNKNOWN_STAY_S if stay_s is None else stay_s
        rarer = max(1.0, 0.01 / max(1 - attainment, 1e-6))
        by_requests = [min(most, count * rarer / rate_rps) for most, count in zip(_MOST_S, _REQUESTS, strict=True)]
        shortest, longest = (
            max(least, stays * stay_s, of_requests)
            for least, stays, of_requests in zip(_LEAST_S, _STAYS, by_requests, strict=True)
        )
        longest = min(longest, _MOST_S[1])
        return min(shortest, longest), longest

    @property
    def stays(self) -> float:
        """E2ELs that a probe which passes lasts at least; 0 where its length was declared."""
        return 0.0 if self.probe_s is not None else float(_STAYS[0])

    @model_validator(mode="after")
    def _in_order(self) -> CapacitySpec:
        if not self.lowest_rps <= self.start_rps <= self.highest_rps:
            raise ValueError("a capacity search needs min_rps <= start_rps <= max_rps")
        if self.probe_s is not None and not 0 < self.probe_s[0] <= self.probe_s[1]:
            raise ValueError("probe_s is [shortest, longest] in seconds, both above 0")
        return self


class LoadSpec(Spec):
    """Points of offered load: a list of `concurrency` (closed loop) or of `rate` in requests/s (open loop), or a search for
    the `capacity`, which chooses its rates and their durations itself."""

    concurrency: list[int] = Field(default_factory=list, max_length=1000)
    rate: list[float] = Field(default_factory=list, max_length=1000)
    arrivals: Annotated[str, Field(max_length=1000)] = Field(
        default="poisson",
        description="poisson | constant | gamma:SHAPE | onoff:ON_S:OFF_S[:OFF_SHARE] | diurnal:NAME[:DAY_S] | ramp[:FROM-TO] | "
        "step:A,B,.. | trace[:SPEEDUP] | batch | preset",
    )
    requests: bounds.Requests | None = Field(default=None, description="requests a cell; or use duration_s")
    requests_per_slot: bounds.Requests | None = Field(
        default=None, description="closed loop: requests = this x concurrency"
    )
    duration_s: bounds.Seconds | None = None
    capacity: CapacitySpec | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> LoadSpec:
        if self.capacity is not None:
            plain = type(self).model_fields
            others = sorted(
                k
                for k in plain
                if k != "capacity" and getattr(self, k) != plain[k].get_default(call_default_factory=True)
            )
            if others:
                raise ValueError(
                    f"capacity chooses rates and durations itself and offers Poisson arrivals; leave out {others}"
                )
            return self
        if not _ARRIVALS.fullmatch(self.arrivals):
            raise ValueError(
                f"arrivals {self.arrivals!r} are unknown: {type(self).model_fields['arrivals'].description}"
            )
        process = self.arrivals.partition(":")[0]
        timed = process in _OWN_TIMES and not self.concurrency
        if self.concurrency and self.arrivals != "poisson":
            raise ValueError("arrivals belong to an open loop; concurrency sends when a slot is free")
        if bool(self.concurrency) == bool(self.rate) and not timed:
            raise ValueError("a load needs exactly one of concurrency: [..], rate: [..] and capacity: {..}, not empty")
        most = bounds.MOST_IN_FLIGHT
        bad = [*(c for c in self.concurrency if not 1 <= c <= most), *(r for r in self.rate if not 1e-5 <= r <= 1e6)]
        if bad:
            advice = "concurrency must be >= 1 and rate > 0; at most {:,} in flight, 0.00001 to 1,000,000 requests/s"
            raise ValueError(f"{bad[0]!r}: {advice.format(most)}")
        if (self.requests_per_slot or 0) * max(self.concurrency, default=0) > bounds.MOST_REQUESTS:
            raise ValueError(f"requests_per_slot x concurrency: at most {bounds.MOST_REQUESTS:,} requests a cell")
        lengths = [k for k in ("requests", "requests_per_slot", "duration_s") if getattr(self, k) is not None]
        if len(lengths) != 1 and not (process == "trace" and not lengths):  # without a number: the whole trace
            raise ValueError(
                f"a load needs exactly one of requests, requests_per_slot, duration_s; given: {lengths or 'none'}"
            )
        if not self.concurrency and self.requests_per_slot:
            raise ValueError("requests_per_slot belongs to concurrency; use requests or duration_s with rate")
        return self

    def size(self) -> int:
        """How many points."""
        return max(1, len(self.concurrency) + len(self.rate))

    def points(self) -> list[Load]:
        if self.capacity is not None:
            return [Load(arrivals="capacity")]
        if not self.concurrency and not self.rate:
            return [Load(arrivals=self.arrivals)]
        return [Load(concurrency=c) for c in self.concurrency] + [
            Load(rate_rps=r, arrivals=self.arrivals) for r in self.rate
        ]
