"""What the heads of a run's replies say beside the replies: of the account's limits, and of where they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from harness.measure.drive.pacing import Account
from harness.measure.drive.places import places_in, replica_in
from harness.measure.drive.rate_headers import read_limits
from harness.measure.job import Head
from harness.records import LimitSample

_Said = tuple[int | None, int | None]  # limit, remaining


class Heads:
    """`sink` gets rows of the table limits, where one is new or has changed; `account` learns from all of them."""

    def __init__(
        self, account: Account, sink: Callable[[str, list[LimitSample]], None], replicas: Sequence[str] = ()
    ) -> None:
        """`replicas`: host:port of the servers behind a router, which a head may name."""
        self._account, self._sink, self._replicas = account, sink, replicas
        self._served_by: dict[int, str] = {}
        self._last: dict[tuple[str, float | None, str], _Said] = {}
        self._places: Counter[str] = Counter()

    def take(self, head: Head) -> None:
        samples = read_limits(head.headers, head.seq, head.stamp_ns)
        with self._account.lock:
            self._account.heads += 1
            self._account.learn(samples)
        changed = [sample for sample in samples if self._is_news(sample)]
        if changed:
            self._sink("limits", changed)
        if self._replicas and (replica := replica_in(head.headers, self._replicas)) is not None:
            self._served_by[head.seq] = replica
        self._places.update(f"{name}: {place}" for name, place in places_in(head.headers).items())

    def _is_news(self, sample: LimitSample) -> bool:
        key, said = (sample.kind, sample.window_s, sample.source), (sample.limit, sample.remaining)
        news = self._last.get(key) != said
        self._last[key] = said
        return news

    def served_by(self, seq: int) -> str | None:
        """The replica that a request's reply came from, as its head said; told once."""
        return self._served_by.pop(seq, None)

    def places(self) -> dict[str, int]:
        """`header: place` -> replies that said so."""
        return dict(self._places)
