"""The table of metrics: the only list of their names, for summaries, reports and the README. judge/metrics.py and judge/rates.py compute them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `formula` in the words of records.py, `undefined` says when it is null."""

    name: str
    symbol: str
    unit: str
    formula: str
    undefined: str
    per: str  # request | chunk | run
    higher_is_better: bool | None = False  # None: asked for, not achieved


_TABLE = (
    Metric("send_lag_s", "send lag", "s", "sent - scheduled", "closed loop", "request"),
    Metric("ttft_s", "TTFT", "s", "first token - sent", "no token", "request"),
    Metric("ttft_from_schedule_s", "TTFT from schedule", "s", "first token - scheduled", "closed loop", "request"),
    Metric("ttft_less_path_s", "TTFT less path", "s", "TTFT - round_trip_s: an estimate of what the server took", "no round trips beside the run", "request"),
    Metric("ttfvt_s", "TTFVT", "s", "first visible token (not reasoning) - sent", "no visible token", "request"),
    Metric("tpot_s", "TPOT", "s", "(last token - first token) / (streamed output tokens - tokens of the first chunk)", "fewer than 2 streamed tokens", "request"),
    Metric("itl_s", "ITL", "s", "gaps between tokens", "a chunk held other than one token", "chunk"),
    Metric("icl_s", "ICL", "s", "gaps between token-bearing chunks", "fewer than 2 chunks", "chunk"),
    Metric("e2el_s", "E2EL", "s", "last token - sent", "not ok", "request"),
    Metric("prompt_tokens", "ISL", "tokens", "usage.prompt_tokens", "usage missing", "request", higher_is_better=None),
    Metric("output_tokens", "OSL", "tokens", "usage.completion_tokens", "usage missing", "request", higher_is_better=None),
    Metric("offered_rate_rps", "offered rate", "1/s", "asked for", "closed loop", "run", higher_is_better=None),
    Metric("scheduled_rate_rps", "scheduled rate", "1/s", "drawn in the plan", "closed loop", "run", higher_is_better=None),
    Metric("achieved_rate_rps", "achieved rate", "1/s", "sent in the window / time it took to offer them", "no window", "run", higher_is_better=True),
    Metric("request_rps", "request throughput", "1/s", "ok requests sent in the window / time it took to offer them", "no window", "run", higher_is_better=True),
    Metric("output_tps", "output throughput", "tokens/s", "output tokens of those requests / that time", "no window", "run", higher_is_better=True),
    Metric("total_tps", "total throughput", "tokens/s", "input_tps + output_tps", "no window or usage missing", "run", higher_is_better=True),
    Metric("input_tps", "input throughput", "tokens/s", "prompt tokens of those requests / that time", "no window or usage missing", "run", higher_is_better=True),
    Metric("output_tps_whole", "output throughput, whole phase", "tokens/s", "output tokens of ok requests / (last token - first send)", "no ok request", "run", higher_is_better=True),
    Metric("goodput_rps", "goodput", "1/s", "those of these requests that meet every SLO / that time", "no SLO", "run", higher_is_better=True),
    Metric("goodput_tps", "token goodput", "tokens/s", "output tokens of those that meet every SLO / that time", "no SLO", "run", higher_is_better=True),
    Metric("attainment", "attainment", "", "good / offered in the window", "no SLO", "run", higher_is_better=True),
    Metric("capacity_rps", "capacity", "1/s", "highest offered rate whose attainment holds, of a capacity search", "not a capacity search, or one that found a bound alone", "run", higher_is_better=True),
    Metric("energy_j", "GPU energy", "J", "energy counters at window end - start, summed over the target's GPUs", "counter missing", "run"),
    Metric("energy_per_output_token_j", "GPU energy per output token", "J/token", "energy_j / window / output_tps", "counter missing", "run"),
    Metric("harness_cpu_share", "harness CPU / server CPU", "", "CPU seconds of the harness / of the server, over the measured phase", "server not ours", "run"),
    Metric("round_trip_s", "HTTP round trip", "s", "median of the HEAD round trips beside the measured phase", "no round trips beside the run", "run"),
    Metric("preemptions", "preemptions", "preemptions", "rise of the server's counter over the measured phase, over all engines", "the server does not count them", "run"),
    Metric("kv_cache_use_max", "KV cache in use, highest", "", "highest share of an engine's KV cache in use at a scrape in the window", "the server does not tell", "run"),
    Metric("prefix_hit_share", "prefix cache hits", "", "prefix cache hits / queries by the server's counters over the measured phase", "the server does not count them", "run"),
    Metric("draft_acceptance", "draft acceptance", "", "accepted / drafted tokens by the server's counters over the measured phase", "no speculative decoding", "run"),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _TABLE}
