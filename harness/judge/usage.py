"""What a hosted API bills of requests, as their usage says."""

from __future__ import annotations

from harness.judge.columns import BoolArray, Requests


def usage_of(requests: Requests, population: BoolArray) -> tuple[tuple[int, ...], ...]:
    """(prompt, cached, output, reasoning) of each request of the population, and cache writes where any usage told of them (0 too); empty unless usage
    is there for all.

    Cached, reasoning and written tokens that a server does not report are 0: it bills none of them apart.
    """
    if not (requests.prompt.present & requests.output.present)[population].all():
        return ()
    columns = [requests.prompt, requests.cached, requests.output, requests.reasoning]
    writes = (requests.written_5m, requests.written_1h)
    if any(c.present[population].any() for c in writes):
        columns += writes
    rows = zip(*(c.data[population].tolist() for c in columns), strict=True)
    kept: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal ones are one object
    return tuple(kept.setdefault(row, row) for row in rows)
