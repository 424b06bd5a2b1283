"""Whether the queue of an open loop grows while it is measured: then the server falls behind the arrivals, and nothing is steady.

What is watched is the E2EL of a reply of average length, TTFT from schedule + TPOT x mean tokens: the queue shows in it, whether requests
wait before their first token or slow each other down after it, and how long each happens to be does not. Where work is served in
turn, a rise of that by s seconds a second means departures at 1 / (1 + s) of the arrivals.
"""

from __future__ import annotations

import math

import numpy as np

from harness.base.stats import t_above
from harness.judge.columns import FloatArray, Requests
from harness.judge.distributions import per_request
from harness.records import Window

_FEWEST, _MOST = (
    4,
    10,
)  # blocks, of 4 requests and one settling time at least where that leaves so many: closer ones are not independent
_CERTAIN = 0.95  # one-sided, of the slope
_FALLS_BEHIND = 0.02  # s/s: 2 % fewer departures than arrivals
_RISES = 0.10  # of the mean over the window: half of that is what the mean is off


def _typical_e2el_s(requests: Requests, inside: Window) -> tuple[FloatArray, FloatArray]:
    """When each ok request of the window was sent (s after its start), in order, and the E2EL of a reply of average length then."""
    values = per_request(requests)
    use = requests.ok & requests.sent.inside(inside) & requests.first_token.present
    since = np.where(requests.due.present, requests.due.data, requests.sent.data)[use]
    wait = (requests.first_token.data[use] - since) / 1e9
    each = values["tpot_s"][use]
    tokens = requests.output.data[use & requests.output.present]
    known = ~np.isnan(each)
    if known.any() and len(tokens):
        wait = wait + np.where(known, each, each[known].mean()) * max(0.0, float(tokens.mean()) - 1)
    at = (requests.sent.data[use] - inside.start_ns) / 1e9
    order = np.argsort(at, kind="stable")
    return at[order], wait[order]


def growing(requests: Requests, start_ns: int, end_ns: int, settling_ns: int) -> str | None:
    """What is seen of a growing queue among the requests sent in (start, end], in words; None where nothing is."""
    at, typical = _typical_e2el_s(requests, Window(start_ns, end_ns, "", 0, 0, 0))
    blocks = min(_MOST, len(at) // 4, max(_FEWEST, (end_ns - start_ns) // max(1, settling_ns)))
    if blocks < _FEWEST or at[-1] <= at[0]:
        return None
    x = np.array([part.mean() for part in np.array_split(at, blocks)])
    y = np.array([part.mean() for part in np.array_split(typical, blocks)])
    mean, spread = float(y.mean()), x - x.mean()
    slope = float((spread * y).sum() / (spread**2).sum())
    left = y - mean - slope * spread
    error = math.sqrt(float((left**2).sum()) / (blocks - 2) / float((spread**2).sum()))
    rise = slope * (end_ns - start_ns) / 1e9
    if slope <= t_above(1 - _CERTAIN, blocks - 2) * error or (slope <= _FALLS_BEHIND and rise <= _RISES * mean):
        return None
    return (
        f"the queue grows: from the first to the last request counted, the E2EL of a reply of average length rose by {rise:.3g} s "
        f"(mean {mean:.3g} s), {slope:.2%} of the time that passed"
    )
