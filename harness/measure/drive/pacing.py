"""Keeps a drive to its account's limits: a request is held back until, with all that was sent before it, every limit allows it.

A limit of N a minute is kept as at most N in any minute (a sliding window), which a fixed window, a sliding one and a bucket of N that
fills in a minute all take; where a provider holds its limit over a shorter stretch, `enforced_over_s` says so. Tokens are taken as
providers count them when a request comes in, prompt + max_tokens, and settled when its reply has ended. What is in flight counts from
when it was let go, and from its send once that is known.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.base import clock
from harness.config.limits import LimitsSpec
from harness.judge.account_limits import Limit, declared_limits, learned_window_s
from harness.measure.gate import Answer, Asked
from harness.records import Endpoint, LimitSample, RequestRecord

SLACK_S, SLACK_SHARE = (
    0.5,
    0.05,
)  # a send may reach the server so much later than another: the smaller of s and share of the window
SENT_WITHIN_NS = 5 * clock.NS  # of being let go: longer is no way to a server but a clock
BACK_OFF_S = 1.0  # after a 429 that does not say how long
LONGEST_WAIT_S = 900.0  # a limit that opens only later ends the run: it is a day's
STOPPED = "account_limit"  # stop_reason of a drive that such a limit ended


@dataclass(slots=True)
class _Sent:
    """What was let go: when, and what it takes of each kind, by now and when it was asked for."""

    at_ns: int
    takes: dict[str, int]
    asked: Mapping[str, int]


class Account:
    """What was sent on one account, and what its limits are: shared by all drives to it in this process, warm-up included. Every
    instant is CLOCK_MONOTONIC ns, given from outside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.told: dict[tuple[str, float], LimitSample] = {}  # (kind, window) -> the last that a head said
        self.heads = 0  # replies with a head
        self.blocked_ns = 0  # by a retry-after
        self._sent: deque[_Sent] = deque()  # in the order in which they were let go
        self._taken: Counter[str] = Counter()  # of all of them
        self._shared: set[tuple[str, float]] = set()  # limits of which others took, too
        self._resets: dict[str, list[tuple[int | None, int | None, float | None]]] = {}

    def learn(self, samples: Sequence[LimitSample]) -> None:
        """What a reply's head said."""
        for sample in samples:
            window_s = sample.window_s
            if window_s is None:
                seen = self._resets.setdefault(sample.kind, [])
                seen.append((sample.limit, sample.remaining, sample.reset_s))
                del seen[:-50]
                window_s = learned_window_s(seen)
                for old in [key for key in self.told if key[0] == sample.kind and self.told[key].window_s is None]:
                    del self.told[old]
            self.told[sample.kind, window_s] = sample
            if self._of_others(sample, window_s):
                self._shared.add((sample.kind, window_s))
            else:
                self._shared.discard((sample.kind, window_s))

    def _of_others(self, sample: LimitSample, window_s: float) -> bool:
        """Whether more is gone of a limit than all that we sent in its time asked for."""
        if sample.limit is None or sample.remaining is None:
            return sample.remaining == 0
        gone = sample.limit - sample.remaining
        begin_ns = sample.stamp_ns - int((window_s + SLACK_S) * clock.NS)
        for sent in reversed(self._sent):
            if gone <= 0 or sent.at_ns < begin_ns:
                break
            gone -= sent.asked.get(sample.kind, 0)
        return gone > 0

    def limits(self, declared: Sequence[Limit]) -> list[Limit]:
        """Those declared and those told, of each kind and time the smaller."""
        found = {(limit.kind, limit.window_s): limit for limit in declared}
        for (kind, window_s), sample in self.told.items():
            known = found.get((kind, window_s))
            if sample.limit is not None and (known is None or sample.limit < known.allowed):
                found[kind, window_s] = Limit(kind, window_s, sample.limit)
        return list(found.values())

    def wait_ns(self, limits: Sequence[Limit], takes: Mapping[str, int], now_ns: int, enforced_over_s: float) -> int:
        """How long from now on until all limits allow a request that takes so much; 0: at once. As far as is known now: what ends
        meanwhile may give some back."""
        wait_ns = max(0, self.blocked_ns - now_ns)
        for limit in limits:
            take = takes.get(limit.kind, 0)
            if limit.window_s is None or not take:
                continue
            for window_s, allowed in _stretches(limit, take, enforced_over_s):
                wait_ns = max(wait_ns, self._window_wait_ns(limit.kind, window_s, allowed - take, now_ns))
        return max(wait_ns, self._told_wait_ns(takes, now_ns))

    def _window_wait_ns(self, kind: str, window_s: float, left: int, now_ns: int) -> int:
        """Until no more than `left` was taken in the window before."""
        if self._taken[kind] <= left:
            return 0
        reach_ns = int((window_s + min(SLACK_S, SLACK_SHARE * window_s)) * clock.NS)
        taken, wait_ns = 0, 0
        for sent in reversed(self._sent):
            gone_ns = sent.at_ns + reach_ns - now_ns
            if gone_ns <= 0 and sent.at_ns + reach_ns + clock.NS < now_ns:
                break  # those before it are gone too: sends are let go in order, and settled within it
            taken += sent.takes.get(kind, 0) if gone_ns > 0 else 0
            if taken > left:
                wait_ns = max(wait_ns, gone_ns)
                break
        return wait_ns

    def _told_wait_ns(self, takes: Mapping[str, int], now_ns: int) -> int:
        """Until a limit is whole again that others use too, and of which the last head says that less is left than this takes."""
        waits = [
            sample.stamp_ns + int(sample.reset_s * clock.NS) - now_ns
            for (kind, window_s), sample in self.told.items()
            if (kind, window_s) in self._shared
            if sample.remaining is not None and sample.reset_s is not None and sample.remaining < takes.get(kind, 0)
        ]
        return max(0, *waits) if waits else 0

    def take(self, takes: dict[str, int], now_ns: int, longest_s: float) -> _Sent:
        while self._sent and self._sent[0].at_ns + int((longest_s + 1) * clock.NS) < now_ns:
            self._taken.subtract(self._sent.popleft().takes)
        sent = _Sent(now_ns, takes, takes)
        self._taken.update(takes)
        self._sent.append(sent)
        return sent

    def settle(self, sent: _Sent, takes: dict[str, int]) -> None:
        """It took this."""
        if sent.at_ns >= (self._sent[0].at_ns if self._sent else 0):  # else it is long forgotten
            self._taken.subtract(sent.takes)
            self._taken.update(takes)
        sent.takes = takes

    def give_back(self, sent: _Sent) -> None:
        """It was never sent."""
        self.settle(sent, {})


def _stretches(limit: Limit, take: int, enforced_over_s: float) -> Iterator[tuple[float, int]]:
    """(seconds, allowed in them) that a limit is kept over: its own, and the shorter one over which it is enforced."""
    window_s = limit.window_s or 0.0
    yield window_s, limit.allowed
    if enforced_over_s < window_s <= 60:
        part = int(limit.allowed * enforced_over_s / window_s)
        if part >= take:
            yield enforced_over_s, part
        else:  # less than one such request fits: it goes alone, and the next when what it took is there again
            yield window_s * take / limit.allowed, take


_ACCOUNTS: dict[tuple[str, str, str | None], Account] = {}


def account_of(endpoint: Endpoint) -> Account:
    """The account that an endpoint's requests are counted on: of its API, model and key."""
    return _ACCOUNTS.setdefault((endpoint.base_url, endpoint.model, endpoint.api_key), Account())


@dataclass(slots=True)
class Pacing:
    """A gate (../gate.py) over one phase. `settled`: tokens that a reply did not use are given back when it has ended."""

    account: Account
    spec: LimitsSpec
    settled: bool
    now_ns: Callable[[], int] = clock.monotonic_ns
    lead_ns: int = 0
    ahead: int = 0
    stop_reason: str = STOPPED
    released_ns: dict[int, int] = field(default_factory=dict)  # seq -> when it was let go
    _open: dict[int, _Sent] = field(default_factory=dict)
    _longer: float = 1.0  # the longest prompt by usage over its plan: a template, another tokenizer

    def ask(self, asked: Asked) -> Answer:
        request = asked.request
        prompt = round(request.target_prompt_tokens * self._longer)
        takes = {
            "requests": 1,
            "tokens": prompt + request.target_output_tokens,
            "input_tokens": prompt,
            "output_tokens": request.target_output_tokens,
        }
        with self.account.lock:
            now_ns = self.now_ns()
            limits = self.account.limits(declared_limits(self.spec))
            most = self.spec.concurrency
            if not limits and most is None and not self.account.heads:
                most = 1  # nothing is known: the first goes alone, and its reply may tell
            if most is not None and len(self._open) >= most:
                return Answer.LATER
            wait_ns = self.account.wait_ns(limits, takes, now_ns, self.spec.enforced_over_s)
            if wait_ns > LONGEST_WAIT_S * clock.NS:
                return Answer.STOP
            if wait_ns > 0:
                return Answer.LATER
            longest_s = max((limit.window_s or 60.0 for limit in limits), default=60.0)
            self._open[request.seq] = self.account.take(takes, now_ns, longest_s)
            self.released_ns[request.seq] = now_ns
        return Answer.SEND

    def withdraw(self, asked: Asked) -> None:
        with self.account.lock:
            self._never_sent(asked.request.seq)

    def _never_sent(self, seq: int) -> None:
        sent = self._open.pop(seq, None)
        self.released_ns.pop(seq, None)
        if sent is not None:
            self.account.give_back(sent)

    def over(self, rows: Sequence[RequestRecord]) -> None:
        with self.account.lock:
            for row in rows:
                sent = self._open.pop(row.seq, None)
                if sent is None:
                    continue
                if row.sent_ns is None:
                    self.account.give_back(sent)
                    continue
                sent.at_ns = max(sent.at_ns, min(row.sent_ns, sent.at_ns + SENT_WITHIN_NS))
                self._settle(sent, row)
                if row.http_status == 429:
                    wait_s = BACK_OFF_S if row.retry_after_s is None else row.retry_after_s
                    until_ns = (row.ended_ns or self.now_ns()) + int(wait_s * clock.NS)
                    self.account.blocked_ns = max(self.account.blocked_ns, until_ns)

    def _settle(self, sent: _Sent, row: RequestRecord) -> None:
        used = {"input_tokens": row.prompt_tokens, "output_tokens": row.output_tokens}
        if row.prompt_tokens is not None and row.output_tokens is not None:
            used["tokens"] = row.prompt_tokens + row.output_tokens
        takes = dict(sent.takes)
        for kind, tokens in used.items():
            if tokens is not None:
                takes[kind] = tokens if self.settled else max(tokens, takes[kind])
        self.account.settle(sent, takes)
        if row.prompt_tokens is not None and row.target_prompt_tokens:
            self._longer = max(self._longer, row.prompt_tokens / row.target_prompt_tokens)

    def ended(self) -> None:
        with self.account.lock:
            for seq in list(self._open):
                self._never_sent(seq)
