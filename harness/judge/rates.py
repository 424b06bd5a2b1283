"""The numbers of a run that are one a run: rates, throughput, goodput.

All are of the requests offered in the window, over the time in which the load offered them (window.py), so that goodput is never
above throughput. Only ok requests add tokens or completions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.judge.columns import BoolArray, FloatArray, Ints, Requests
from harness.judge.metrics import good
from harness.judge.window import offered
from harness.records import Load, Window


def output_tokens(requests: Requests) -> FloatArray:
    """Output tokens of each request by usage, else as its chunks say; NaN where neither does."""
    return np.where(requests.output.present, requests.output.data, requests.counted.floats())


def _total(values: FloatArray, use: BoolArray) -> float | None:
    """Sum over `use`, None where one of them is not known."""
    return None if np.isnan(values[use]).any() else float(values[use].sum())


def output_tps_whole(requests: Requests) -> float | None:
    """Output tokens of ok requests / (last token - first send), ramp and drain included."""
    use = requests.ok & requests.last_token.present & requests.sent.present
    if not use.any() or not requests.output.present[use].all():
        return None
    span_ns = int(requests.last_token.data[use].max()) - int(requests.sent.data[requests.sent.present].min())
    return float(requests.output.data[use].sum()) / (span_ns / 1e9) if span_ns > 0 else None


def _rate_of(stamps: Ints, requests: Requests, window: Window) -> float | None:
    """Requests offered in the window over the time between their `stamps`, from that of the last request sent up to its start on."""
    inside = offered(requests, window.start_ns, window.end_ns) & stamps.present
    if not inside.any():
        return None
    before = requests.sent.present & stamps.present & (requests.sent.data <= window.start_ns)
    start = int(stamps.data[before].max()) if before.any() else int(stamps.data[inside].min())
    count = int((stamps.data[inside] > start).sum())
    span_ns = int(stamps.data[inside].max()) - start
    return count / (span_ns / 1e9) if span_ns > 0 and count else None


def rates(
    requests: Requests,
    values: Mapping[str, FloatArray],
    window: Window | None,
    load: Load,
    slo: Mapping[str, float],
) -> dict[str, float | None]:
    """Rates, throughput and goodput by the names of metrics.METRICS; None where undefined."""
    scalars: dict[str, float | None] = {
        "offered_rate_rps": load.rate_rps,
        "output_tps_whole": output_tps_whole(requests),
    }
    if window is None:
        return scalars
    of = offered(requests, window.start_ns, window.end_ns)
    done = requests.ok & of
    written, prompted = output_tokens(requests), requests.prompt.floats()
    is_good = good(requests, values, slo) & of if slo else None

    def per_s(amount: float | None) -> float | None:
        return None if amount is None else amount / window.offered_s

    output, prompt = _total(written, done), _total(prompted, done)
    return scalars | {
        # of the same requests, so that one can be held against the other
        "scheduled_rate_rps": _rate_of(requests.scheduled, requests, window),
        "achieved_rate_rps": per_s(int((requests.sent.present & of).sum()))
        if load.is_closed
        else _rate_of(requests.sent, requests, window),
        "request_rps": per_s(int(done.sum())),
        "output_tps": per_s(output),
        "input_tps": per_s(prompt),
        "total_tps": None if output is None or prompt is None else per_s(output + prompt),
        "goodput_rps": None if is_good is None else per_s(int(is_good.sum())),
        "goodput_tps": None if is_good is None else per_s(_total(written, is_good)),
        "attainment": int(is_good.sum()) / int(of.sum()) if is_good is not None and of.any() else None,
    }
