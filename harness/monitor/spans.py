"""How long a server was seen, and how long it was there unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.base.clock import NS

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """Stamps, each sorted: pages of the server, rows in which it was asked in vain, rows of anybody of its pool."""

    pages: IntArray
    missed: IntArray
    pool: IntArray


def seconds_of(seen: Seen, from_ns: int, to_ns: int, near_ns: int) -> tuple[float, float]:
    """(covered, gap) seconds of [from_ns, to_ns). Covered: between two pages at most `near_ns` apart. Gap: where it was asked in vain, or
    nobody watched its pool; where others were read and it was not even asked it was not there."""
    stamps = np.concatenate([seen.pages, seen.missed])
    order = np.argsort(stamps, kind="stable")
    stamps = stamps[order]
    is_page = (order < len(seen.pages)).astype(bool)
    if len(stamps) < 2:
        return 0.0, 0.0
    begin, end = stamps[:-1], stamps[1:]
    lengths = np.maximum(np.minimum(end, to_ns) - np.maximum(begin, from_ns), 0)
    near = end - begin <= near_ns
    covered = near & is_page[:-1] & is_page[1:]
    others = np.searchsorted(seen.pool, end, side="left") - np.searchsorted(seen.pool, begin, side="right") > 0
    gap = ~covered & (near | ~others)
    return float(lengths[covered].sum()) / NS, float(lengths[gap].sum()) / NS
