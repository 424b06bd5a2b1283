"""What a request is worth to the own side, among the recent ones: hosted dollars that it saves for each second that it takes there alone.

Prompts are cheap on a server and billed by an API, replies take a server's time: two requests of one price are not of one worth.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

NEWEST = 512  # requests that one is compared with


class Worth:
    """The newest requests' dollars a second, in order of arrival and of size."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []

    def of(self, usd: float, seconds: float) -> float:
        """The share of the requests before this one that are worth less, of those worth the same half; 0.5 of the first."""
        value, ordered = usd / seconds, self._ordered
        share = (bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 / len(ordered) if ordered else 0.5
        insort(ordered, value)
        self._recent.append(value)
        if len(self._recent) > NEWEST:
            del ordered[bisect_left(ordered, self._recent.popleft())]
        return share
