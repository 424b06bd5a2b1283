"""What every other promise on the first token would come to: one number a request, with the rest of the promise as it is."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

from harness.judge.columns import FloatArray, Requests
from harness.judge.metrics import good, held
from harness.judge.window import offered
from harness.records import FirstTokens, Window

_FROM_SCHEDULE, _FROM_SEND = "ttft_from_schedule_s", "ttft_s"


def first_tokens(
    requests: Requests, values: Mapping[str, FloatArray], window: Window | None, slo: Mapping[str, float]
) -> FirstTokens | None:
    """Of the limit that the promise has on the first token, else of TTFT from schedule; None without a window."""
    if window is None:
        return None
    metric = _FROM_SEND if _FROM_SEND in slo and _FROM_SCHEDULE not in slo else _FROM_SCHEDULE
    rest = {name: limit for name, limit in slo.items() if name != metric}
    of = offered(requests, window.start_ns, window.end_ns)
    times = held(requests, values, metric)[good(requests, values, rest) & of]
    return FirstTokens(metric, rest, int(of.sum()), array("d", np.sort(times[~np.isnan(times)]).tolist()))
