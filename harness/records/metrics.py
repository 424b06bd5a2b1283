"""The table of metrics, and the pure per-request functions behind them.

`METRICS` is the only list of metric names; summaries, reports and the README use it.
"""

from __future__ import annotations

from dataclasses import dataclass

NS = 1e9


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `formula` in the words of records.py, `undefined` says when it is null."""

    name: str
    symbol: str
    unit: str
    formula: str
    undefined: str
    per: str  # request | chunk | run


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("send_lag_s", "send lag", "s", "sent - scheduled", "closed loop", "request"),
        Metric("ttft_s", "TTFT", "s", "first token - sent", "no token", "request"),
        Metric("ttft_from_schedule_s", "TTFT from schedule", "s", "first token - scheduled", "closed loop", "request"),
        Metric("ttfvt_s", "TTFVT", "s", "first visible token (not reasoning) - sent", "no visible token", "request"),
        Metric(
            "tpot_s",
            "TPOT",
            "s",
            "(last token - first token) / (streamed output tokens - tokens of the first chunk)",
            "fewer than 2 streamed tokens",
            "request",
        ),
        Metric("itl_s", "ITL", "s", "gaps between tokens", "a chunk held other than one token", "chunk"),
        Metric("icl_s", "ICL", "s", "gaps between token-bearing chunks", "fewer than 2 chunks", "chunk"),
        Metric("e2el_s", "E2EL", "s", "last token - sent", "not ok", "request"),
        Metric("prompt_tokens", "ISL", "tokens", "usage.prompt_tokens", "usage missing", "request"),
        Metric("output_tokens", "OSL", "tokens", "usage.completion_tokens", "usage missing", "request"),
        Metric("offered_rate_rps", "offered rate", "1/s", "asked for", "closed loop", "run"),
        Metric("scheduled_rate_rps", "scheduled rate", "1/s", "drawn in the plan", "closed loop", "run"),
        Metric(
            "achieved_rate_rps",
            "achieved rate",
            "1/s",
            "sent in the window / time it took to offer them",
            "no window",
            "run",
        ),
        Metric(
            "request_rps",
            "request throughput",
            "1/s",
            "ok requests sent in the window / time it took to offer them",
            "no window",
            "run",
        ),
        Metric(
            "output_tps",
            "output throughput",
            "tokens/s",
            "output tokens of those requests / that time",
            "no window",
            "run",
        ),
        Metric(
            "total_tps",
            "total throughput",
            "tokens/s",
            "input_tps + output_tps",
            "no window or usage missing",
            "run",
        ),
        Metric(
            "input_tps",
            "input throughput",
            "tokens/s",
            "prompt tokens of those requests / that time",
            "no window or usage missing",
            "run",
        ),
        Metric(
            "output_tps_whole",
            "output throughput, whole phase",
            "tokens/s",
            "output tokens of ok requests / (last token - first send)",
            "no ok request",
            "run",
        ),
        Metric(
            "goodput_rps", "goodput", "1/s", "those of these requests that meet every SLO / that time", "no SLO", "run"
        ),
        Metric(
            "goodput_tps",
            "token goodput",
            "tokens/s",
            "output tokens of those that meet every SLO / that time",
            "no SLO",
            "run",
        ),
        Metric("attainment", "attainment", "", "good / offered in the window", "no SLO", "run"),
        Metric(
            "energy_j",
            "GPU energy",
            "J",
            "energy counters at window end - start, summed over the target's GPUs",
            "counter missing",
            "run",
        ),
        Metric(
            "energy_per_output_token_j",
            "GPU energy per output token",
            "J/token",
            "energy_j / window / output_tps",
            "counter missing",
            "run",
        ),
        Metric(
            "harness_cpu_share",
            "harness CPU / server CPU",
            "",
            "CPU seconds of the harness / of the server, over the measured phase",
            "server not ours",
            "run",
        ),
        Metric(
            "preemptions",
            "preemptions",
            "preemptions",
            "rise of the server's counter over the measured phase, over all engines",
            "the server does not count them",
            "run",
        ),
        Metric(
            "kv_cache_use_max",
            "KV cache in use, highest",
            "",
            "highest share of an engine's KV cache in use at a scrape in the window",
            "the server does not tell",
            "run",
        ),
        Metric(
            "prefix_hit_share",
            "prefix cache hits",
            "",
            "prefix cache hits / queries by the server's counters over the measured phase",
            "the server does not count them",
            "run",
        ),
        Metric(
            "draft_acceptance",
            "draft acceptance",
            "",
            "accepted / drafted tokens by the server's counters over the measured phase",
            "no speculative decoding",
            "run",
        ),
    )
}


def seconds(later_ns: int | None, earlier_ns: int | None) -> float | None:
    """(later - earlier) in seconds, None where either was not observed."""
    return None if later_ns is None or earlier_ns is None else (later_ns - earlier_ns) / NS


def hidden_tokens(
    output_tokens: int | None,
    reasoning_tokens: int | None,
    reasoning_chunks: int | None,
    chunks: int,
    *,
    told: bool,
) -> int:
    """Output tokens that usage counts and the stream did not carry: the reasoning of a reply no chunk of which held any.

    Rows stored before `reasoning_chunks` was (None): hidden where the other tokens suffice for the `chunks`, of which each
    holds one at least, unless the chunks themselves tell their tokens (`told`). Reasoning beyond the output tokens is
    counted beside them, so that none of these is hidden.
    """
    if output_tokens is None or reasoning_tokens is None or reasoning_chunks:
        return 0
    others = output_tokens - reasoning_tokens
    if reasoning_chunks is None:
        return 0 if told or others < chunks else reasoning_tokens
    return reasoning_tokens if others > 0 else 0


def tpot_s(
    first_token_ns: int | None,
    last_token_ns: int | None,
    output_tokens: int | None,
    first_chunk_tokens: int | None,
    hidden: int = 0,
) -> float | None:
    """Seconds per streamed output token after the first chunk; None with fewer than 2 of them, or none after that chunk.

    `hidden`: as `hidden_tokens` finds them. Running usage counts them into the chunk that comes after them.
    """
    if output_tokens is None or output_tokens - hidden < 2:
        return None
    first = 1 if first_chunk_tokens is None else first_chunk_tokens
    after = output_tokens - hidden - (first - hidden if first > hidden else first)
    span = seconds(last_token_ns, first_token_ns)
    return span / after if span is not None and after > 0 else None
