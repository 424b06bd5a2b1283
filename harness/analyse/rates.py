"""The numbers of a run that are one a run: rates, throughput, goodput.

Only ok requests add tokens or completions. Tokens are counted where their chunk's stamp lies in the window, so a request that
began before it or ends after it counts with the part that the server produced inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.analyse.columns import BoolArray, FloatArray, Requests
from harness.records import Load, Window

_SLO_METRICS = ("ttft_from_schedule_s", "ttft_s", "tpot_s", "e2el_s")


def offered(requests: Requests, window: Window) -> BoolArray:
    """Requests that count as offered in the window: sent in it, or never sent and due in it (dropped, no connection)."""
    due = requests.due.inside(window) | (~requests.due.present & requests.scheduled.inside(window))
    return requests.sent.inside(window) | (~requests.sent.present & due)


def output_tokens_in(requests: Requests, window: Window) -> tuple[float | None, int]:
    """Output tokens of ok requests stamped in the window, and how many chunks there had their tokens spread from usage.

    None where the tokens of any such chunk are known from neither the chunk nor usage.
    """
    chunks = requests.chunks
    use = requests.ok[chunks.row] & (chunks.stamp_ns > window.start_ns) & (chunks.stamp_ns <= window.end_ns)
    tokens = chunks.tokens[use]
    spread = int((~chunks.exact[chunks.row[use]]).sum())
    return (None if np.isnan(tokens).any() else float(tokens.sum())), spread


def input_tokens_in(requests: Requests, window: Window) -> float | None:
    """Prompt tokens of ok requests whose first token is stamped in the window; None if usage is missing for any."""
    use = requests.ok & requests.first_token.inside(window)
    return float(requests.prompt.data[use].sum()) if requests.prompt.present[use].all() else None


def output_tps_whole(requests: Requests) -> float | None:
    """Output tokens of ok requests / (last token - first send), ramp and drain included."""
    use = requests.ok & requests.last_token.present & requests.sent.present
    if not use.any() or not requests.output.present[use].all():
        return None
    span_ns = int(requests.last_token.data[use].max()) - int(requests.sent.data[requests.sent.present].min())
    return float(requests.output.data[use].sum()) / (span_ns / 1e9) if span_ns > 0 else None


def scheduled_rate(requests: Requests, window: Window) -> float | None:
    """Rate that the plan drew for the very requests offered in the window, so that it can be held against the achieved rate.

    Requests scheduled after the last one sent up to the window's start, over the time between those schedules.
    """
    if not requests.scheduled.present.any():
        return None
    before = requests.sent.present & requests.scheduled.present & (requests.sent.data <= window.start_ns)
    inside = offered(requests, window) & requests.scheduled.present
    if not inside.any():
        return None
    schedule = requests.scheduled.data
    start = int(schedule[before].max()) if before.any() else int(schedule[inside].min())
    count = int((schedule[inside] > start).sum())
    span_ns = int(schedule[inside].max()) - start
    return count / (span_ns / 1e9) if span_ns > 0 and count else None


def slo_of(config: Mapping[str, Any]) -> dict[str, float]:
    """The SLO's limits that are set: metric -> seconds. Empty where the experiment promises nothing."""
    slo = config.get("slo") or {}
    return {name: float(slo[name]) for name in _SLO_METRICS if slo.get(name) is not None}


def good(requests: Requests, values: Mapping[str, FloatArray], slo: Mapping[str, float]) -> BoolArray:
    """Requests that are ok and meet every limit of the SLO.

    A metric that is null meets no limit: a reply of one token has no TPOT and is not good under a TPOT SLO, whatever its
    TTFT. In a closed loop nothing is scheduled; there a limit on TTFT from schedule is held against first token - due_ns,
    the time since the slot became free, which is never shorter than TTFT.
    """
    met = requests.ok.copy()
    for name, limit in slo.items():
        value = values[name]
        if name == "ttft_from_schedule_s" and not requests.scheduled.present.any():
            value = requests.first_token.minus(requests.due)
        with np.errstate(invalid="ignore"):
            met &= value <= limit
    return met


def _goodput(
    requests: Requests, values: Mapping[str, FloatArray], window: Window, slo: Mapping[str, float]
) -> dict[str, float | None]:
    if not slo:
        return {"goodput_rps": None, "goodput_tps": None, "attainment": None}
    of = offered(requests, window)
    is_good = good(requests, values, slo) & of
    tokens = requests.output
    return {
        "goodput_rps": int(is_good.sum()) / window.seconds,
        "goodput_tps": float(tokens.data[is_good].sum()) / window.seconds if tokens.present[is_good].all() else None,
        "attainment": int(is_good.sum()) / int(of.sum()) if of.any() else None,
    }


def rates(
    requests: Requests,
    values: Mapping[str, FloatArray],
    window: Window | None,
    load: Load,
    slo: Mapping[str, float],
) -> dict[str, float | None]:
    """Rates, throughput and goodput by the names of metrics.METRICS; None where undefined."""
    found: dict[str, float | None] = {
        "offered_rate_rps": load.rate_rps,
        "output_tps_whole": output_tps_whole(requests),
    }
    if window is None:
        return found
    output, _ = output_tokens_in(requests, window)
    given = input_tokens_in(requests, window)
    completed = int((requests.ok & requests.last_token.inside(window)).sum())
    return found | {
        "scheduled_rate_rps": scheduled_rate(requests, window),
        "achieved_rate_rps": int(requests.sent.inside(window).sum()) / window.seconds,
        "request_rps": completed / window.seconds,
        "output_tps": None if output is None else output / window.seconds,
        "input_tps": None if given is None else given / window.seconds,
        "total_tps": None if output is None or given is None else (output + given) / window.seconds,
        **_goodput(requests, values, window, slo),
    }
