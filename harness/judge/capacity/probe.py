"""One probe of a capacity search, judged while it runs: is the attainment at this rate clearly above the target, clearly
below, or is the queue growing?

Replies are judged in the order of their schedule, up to the last before which every one has ended: taken as they end, the
quick ones would come first and flatter the server. Neighbouring requests share a queue, so that their outcomes are not
independent: the spread comes from `BATCHES` consecutive parts (batch means), and n requests count as n / (variance of the
batch means / binomial variance) independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from harness.base.stats import normal_above, t_above
from harness.judge.columns import of_records
from harness.judge.metrics import good, per_request
from harness.records import Outcome, ProbeResult, RequestRecord

BATCHES = 10
PASS_NOW, FAIL_NOW = "stop: pass", "stop: fail"

_CLEAR_P = 0.00135  # one-sided, as 3 standard errors: some 20 looks a probe keep a wrong stop below about 2 %
_HOPELESS = 0.5  # below it a probe need not last for its shortest time to be clear
_INTERVAL_Z = 1.96
_LOOK = 1.2  # looks at n, 1.2 n, ..: more of them would find more accidents
_MIN_JUDGED = 30
FEW_MISSES, LEAST_INFLATION = 3, 4.0  # misses in fewer batches say nothing about how they cluster: assume this much
# backlog as a share of what was offered; its noise: many looks; of medians of TTFT
_MAX_GROWTH, _GROWTH_NOISE, _TTFT_GROWTH = 0.10, 4.0, 1.5


@cache
def _clear_z(freedom: int | None) -> float:
    """Standard errors that chance passes with _CLEAR_P, by a normal distribution or Student's t of so many degrees of freedom."""
    return normal_above(_CLEAR_P) if freedom is None else t_above(_CLEAR_P, freedom)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a probe needs of a request. `good` is None for one that we cancelled ourselves: nobody knows."""

    seq: int
    scheduled_ns: int
    ended_ns: int
    good: bool | None
    ttft_s: float | None  # from schedule
    output_tokens: int | None
    ok: bool
    prompt_tokens: int | None = None  # that were worked on: without those from the prefix cache


def replies(rows: Sequence[RequestRecord], slo: Mapping[str, float]) -> list[Reply]:
    """Rows as they end -> replies, good as in a report: by the same metrics and the same rule. Every row must be scheduled."""
    requests = of_records(rows)
    values = per_request(requests)
    kept = good(requests, values, slo)
    ttft_s = values["ttft_from_schedule_s"]
    worked = requests.prompt.data - requests.cached.data
    return [
        Reply(
            seq=row.seq,
            scheduled_ns=int(requests.scheduled.data[i]),
            ended_ns=int((requests.ended if requests.ended.present[i] else requests.scheduled).data[i]),
            good=None if row.outcome == Outcome.CANCELLED else bool(kept[i]),
            ttft_s=None if np.isnan(ttft_s[i]) else float(ttft_s[i]),
            output_tokens=row.output_tokens,
            ok=bool(requests.ok[i]),
            prompt_tokens=int(worked[i]) if requests.prompt.present[i] else None,
        )
        for i, row in enumerate(rows)
    ]


def unevenness(work_cv2: float | None) -> float:
    """(1 + cv^2) / 2 of the work of a request, but 1 where it is less or not known: the mean wait of a single queue, in those of
    M/M/1 (Pollaczek-Khinchine)."""
    return 1.0 if work_cv2 is None else max(1.0, (1 + work_cv2) / 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Attainment with an interval at `z` standard errors."""

    attainment: float
    low: float
    high: float
    effective: float


def estimate(
    batches: Iterable[tuple[int, int]], z: float, least_inflation: float = 1.0, uneven: float = 1.0
) -> Estimate:
    """Wilson's interval (1927) on the effective number of requests; `batches`: (offered, good), none empty.

    Inflation = variance of the batch means / (p (1 - p) / requests a batch), `least_inflation` at least; where fewer than 3
    batches hold a miss, `LEAST_INFLATION` x `uneven`^2 at least.
    """
    counts = np.array(list(batches), np.float64)
    offered, good = counts[:, 0], counts[:, 1]
    n = float(offered.sum())
    p = float(good.sum()) / n
    inflation = max(1.0, least_inflation)
    if len(counts) > 1 and 0 < p < 1:
        spread = float((((good - p * offered) ** 2).sum()) / (len(counts) - 1)) * len(counts) / n  # of a single request
        inflation = max(inflation, spread / (p * (1 - p)))
    if int((good < offered).sum()) < FEW_MISSES:
        inflation = max(inflation, LEAST_INFLATION * uneven**2)
    effective = n / inflation
    centre = (p + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(p * (1 - p) / effective + z * z / (4 * effective**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), effective)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The replies that count, by schedule: stamps in ns, TTFT in seconds (NaN where there was no token)."""

    scheduled: npt.NDArray[np.int64]
    ended: npt.NDArray[np.int64]
    good: npt.NDArray[np.bool_]
    ttft: npt.NDArray[np.float64]
    first: int  # of the settled replies: those before are the ramp


class Watch:
    """The replies of one probe so far. `decide` is cheap: it looks only when there are 20 % more replies than last time."""

    def __init__(
        self,
        rate_rps: float,
        attainment: float,
        shortest_s: float,
        inflation: float = 1.0,
        *,
        patient: bool = False,
        stays: float = 0.0,
    ) -> None:
        """`inflation`: how much misses clustered in earlier probes; this one is taken to be no better. A probe is clear after
        `shortest_s` at the earliest, unless its queue grows or, where not `patient`, most requests miss; it passes after so many
        `stays` (median E2EL) too: before, the load is still building up."""
        self.patient, self.stays = patient, stays
        self.rate_rps, self.attainment, self.shortest_s, self.inflation = rate_rps, attainment, shortest_s, inflation
        self._waiting: dict[int, Reply] = {}
        self._settled: list[Reply] = []  # by seq, without a gap
        self._next_look = _MIN_JUDGED
        self._cancelled = False
        self._decision: str | None = None

    def add(self, replies: Iterable[Reply]) -> None:
        """Take replies of the measured phase, as they end, in any order; seq counts from 0."""
        settled, waiting = self._settled, self._waiting
        for one in replies:
            waiting[one.seq] = one
        while not self._cancelled and (reply := waiting.pop(len(settled), None)) is not None:
            if reply.good is None:
                self._cancelled = True
            else:
                settled.append(reply)

    def decide(self) -> str | None:
        """ "stop: pass", "stop: fail", or None: go on. Once decided it stays so."""
        if self._decision is None and len(self._settled) >= self._next_look:
            self._next_look = math.ceil(_LOOK * len(self._settled))
            verdict, _ = self._verdict(self._judged())
            self._decision = {"pass": PASS_NOW, "fail": FAIL_NOW}.get(verdict)
        return self._decision

    def result(self, index: int, run_id: str | None = None, invalid: str | None = None) -> ProbeResult:
        """The probe as it stands; `invalid`: why its run cannot be trusted, where that is so."""
        judged = self._judged()
        count = len(judged.good)
        verdict, stopped = self._verdict(judged)
        if invalid is not None:
            verdict, stopped = "invalid", invalid
        elif not count:
            verdict, stopped = "invalid", "no request was answered or given up in time to be judged"
        batches = _batches(judged)
        work_cv2 = self._work_cv2(judged)
        share = estimate(batches, _INTERVAL_Z, uneven=unevenness(work_cv2)) if batches else None
        span_s = float(judged.scheduled[-1] - judged.scheduled[0]) / 1e9 if count else 0.0
        tokens = [one.output_tokens for one in self._settled[judged.first :] if one.ok]
        known = [tokens_of_one for tokens_of_one in tokens if tokens_of_one is not None]
        return ProbeResult(
            index=index,
            rate_rps=self.rate_rps,
            scheduled_rate_rps=(count - 1) / span_s if span_s > 0 else None,
            seconds=self._seconds(),
            offered=count,
            good=int(judged.good.sum()),
            batches=batches,
            attainment=None if share is None else share.attainment,
            low=None if share is None else share.low,
            high=None if share is None else share.high,
            effective_requests=None if share is None else share.effective,
            output_tokens=sum(known) if len(known) == len(tokens) else None,
            completed_rps=self._completed_rps(judged),
            verdict=verdict,
            stopped=stopped,
            run_id=run_id,
            work_cv2=work_cv2,
            stay_s=_stay_s(judged) if count else None,
        )

    def _work_cv2(self, judged: _Judged) -> float | None:
        """The larger of the squared CVs of prompt and output tokens: no weighted sum of the two has a larger one. None where
        fewer than two replies say either."""
        answered = [one for one in self._settled[judged.first :] if one.ok]
        cv2 = []
        for tokens in ([one.prompt_tokens for one in answered], [one.output_tokens for one in answered]):
            known = np.array([count for count in tokens if count is not None], np.float64)
            if len(known) > 1 and known.mean() > 0:
                cv2.append(float(known.var(ddof=1) / known.mean() ** 2))
        return max(cv2, default=None)

    def _seconds(self) -> float:
        return (self._settled[-1].scheduled_ns - self._settled[0].scheduled_ns) / 1e9 if self._settled else 0.0

    def _completed_rps(self, judged: _Judged) -> float | None:
        if self._seconds() <= 0 or not len(judged.scheduled):
            return None
        last = int(judged.scheduled[-1])
        return sum(one.ended_ns <= last for one in self._settled) / self._seconds()

    def _judged(self) -> _Judged:
        """Settled replies after a ramp: the median stay of the first ones, but a quarter of their schedule at most. In an
        overload a later stay is longer than all the schedule there is."""
        scheduled = np.array([one.scheduled_ns for one in self._settled], np.int64)
        ended = np.array([one.ended_ns for one in self._settled], np.int64)
        good = np.array([one.good for one in self._settled], np.bool_)
        ttft = np.array([math.nan if one.ttft_s is None else one.ttft_s for one in self._settled], np.float64)
        first = 0
        if len(scheduled) >= _MIN_JUDGED:
            stay = float(np.median((ended - scheduled)[:_MIN_JUDGED]))
            ramp = min(stay, float(scheduled[-1] - scheduled[0]) / 4)
            first = int(np.searchsorted(scheduled, scheduled[0] + ramp, side="right"))
        return _Judged(scheduled[first:], ended[first:], good[first:], ttft[first:], first)

    def _verdict(self, judged: _Judged) -> tuple[str, str]:
        if len(judged.good) < _MIN_JUDGED:
            return "undecided", "longest probe"
        if _growing(judged):
            return "fail", "queue growing"
        batches = _batches(judged)
        missing = sum(good < offered for offered, good in batches)
        # the spread is only as well known as there are batches with misses
        uneven = unevenness(self._work_cv2(judged))
        below = estimate(batches, _clear_z(max(1, missing - 1)), self.inflation, uneven)
        long_enough = self._seconds() >= self.shortest_s
        if below.high < self.attainment and (long_enough or (not self.patient and below.attainment < _HOPELESS)):
            return "fail", "clearly below"
        built_up = not self.stays or self._seconds() >= self.stays * _stay_s(judged)
        if long_enough and built_up and estimate(batches, _clear_z(None), self.inflation, uneven).low > self.attainment:
            return "pass", "clearly above"
        return "undecided", "longest probe"


def _stay_s(judged: _Judged) -> float:
    """Median seconds from the schedule to the end of a judged reply."""
    return float(np.median(judged.ended - judged.scheduled)) / 1e9


def _batches(judged: _Judged) -> tuple[tuple[int, int], ...]:
    edges = [len(judged.good) * k // BATCHES for k in range(BATCHES + 1)]
    return tuple((b - a, int(judged.good[a:b].sum())) for a, b in zip(edges, edges[1:], strict=False) if b > a)


def _growing(judged: _Judged) -> bool:
    """More requests unanswered at the end than noise explains, and TTFT rising: the queue has no steady length.

    Counted over the schedule of the judged replies, where it is known of each whether it had ended.
    """
    count = len(judged.scheduled)
    tenth, third = count // 10, count // 3
    before = int((judged.ended[:tenth] > judged.scheduled[tenth]).sum())
    growth = int((judged.ended > judged.scheduled[-1]).sum()) - before
    if growth <= max(_MAX_GROWTH * count, _GROWTH_NOISE * count**0.5):
        return False
    early, late = (part[~np.isnan(part)] for part in (judged.ttft[:third], judged.ttft[-third:]))
    return bool(len(early) and len(late)) and bool(np.median(late) > _TTFT_GROWTH * np.median(early))
