"""Metrics of a run with known answers."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.judge.columns import measured
from harness.judge.metrics import distribution, min_count, per_request
from harness.judge.summary import summarise
from harness.records import Load, RequestRecord, ServerSample
from harness.records.metrics import METRICS
from harness.store.reader import frame_of
from tests.judge.run_builder import closed_loop, edges, failed, frame, ns, open_loop, request, run

C4 = Load(concurrency=4)


def test_every_metric_of_the_table_is_in_the_summary():
    """Scalars and distributions together hold exactly the names of METRICS."""
    summary = summarise(run(closed_loop(4, 40), C4))
    assert set(summary.scalars) | set(summary.distributions) == set(METRICS)
    assert set(summary.scalars) == {m.name for m in METRICS.values() if m.per == "run"}


def test_known_distributions():
    """A server of known TTFT and gaps is measured as such, to the nanosecond, beyond 2^53 ns of uptime."""
    d = summarise(run(closed_loop(4, 400), C4)).distributions
    assert d["ttft_s"].p50 == pytest.approx(0.05, abs=2e-9)
    assert d["tpot_s"].p90 == pytest.approx(0.01, abs=2e-9)
    assert d["e2el_s"].maximum == pytest.approx(0.12, abs=2e-9)
    assert d["icl_s"].count == d["itl_s"].count > 0
    assert d["itl_s"].p99 == pytest.approx(0.01, abs=2e-9)
    assert d["prompt_tokens"].mean == 128
    assert d["output_tokens"].count == 400 - 8 - 4  # two waves of ramp, one of drain
    assert d["send_lag_s"].count == 0


def test_stamps_keep_their_last_nanosecond():
    """Differences are taken on integers: exact, though the stamps are beyond what a float can hold."""
    records = closed_loop(4, 40)
    records = [replace(r, first_token_ns=r.sent_ns + r.seq) for r in records]
    got = per_request(measured(frame(records, RequestRecord)))
    assert got["ttft_s"].tolist() == [r.seq / 1e9 for r in records]
    assert got["e2el_s"].tolist() == [(r.last_token_ns - r.sent_ns) / 1e9 for r in records]


def test_percentiles_need_five_observations_beyond_them():
    """p50 from 10 values, p90 from 50, p95 from 100, p99 from 500, None below."""
    assert [min_count(p) for p in (0.5, 0.9, 0.95, 0.99)] == [10, 50, 100, 500]
    for n, given in ((9, 0), (10, 1), (49, 1), (50, 2), (99, 2), (100, 3), (499, 3), (500, 4)):
        d = distribution("ttft_s", np.arange(n, dtype=float))
        assert sum(p is not None for p in (d.p50, d.p90, d.p95, d.p99)) == given
        assert d.mean == pytest.approx((n - 1) / 2)


def tpot_s(r):
    """Of one row: the streamed tokens after the first chunk, without reasoning that usage counts and no chunk held."""
    others, told = (r.output_tokens or 0) - (r.reasoning_tokens or 0), r.chunk_tokens is not None
    hides = (
        (others > 0)
        if r.reasoning_chunks == 0
        else r.reasoning_chunks is None and not told and others >= len(r.chunk_ns)
    )
    hidden = (r.reasoning_tokens or 0) if hides else 0
    if r.output_tokens is None or r.first_token_ns is None or r.output_tokens - hidden < 2:
        return math.nan
    first = r.chunk_tokens[0] if told else 1
    after = r.output_tokens - hidden - (first - hidden if first > hidden else first)
    return (r.last_token_ns - r.first_token_ns) / 1e9 / after if after > 0 else math.nan


def test_tpot_of_every_kind_of_chunk_information():
    """Row by row: with and without tokens of chunks, usage, reasoning that is streamed, hidden or billed beside the output."""
    base = request(0, 0, tokens=6)
    rows = [
        base,
        replace(base, chunk_tokens=(2, 1, 1, 1, 1, 1), output_tokens=7),
        replace(base, chunk_tokens=None, output_tokens=9),
        replace(base, output_tokens=None),
        request(0, 0, tokens=1),
        replace(base, chunk_ns=base.chunk_ns[:1], chunk_tokens=(6,)),
        failed(base),
        *(
            replace(base, output_tokens=output, reasoning_tokens=reasoning, reasoning_chunks=seen, chunk_tokens=told)
            for output in (6, 7, 1006)
            for reasoning in (None, 0, 1, 5, 6, 1000, 2000)
            for seen in (None, 0, 2)
            for told in (None, (1, 1, 1, 1, 1, 1), (1001, 1, 1, 1, 1, 1), (2, 1, 1, 1, 1, 1))
        ),
    ]
    got = per_request(measured(frame(rows, RequestRecord)))["tpot_s"]
    assert got.tolist() == pytest.approx([tpot_s(r) for r in rows], nan_ok=True)


def test_itl_is_null_when_a_chunk_held_two_tokens():
    """ICL stays, ITL is null as soon as one chunk holds other than one token."""
    records = closed_loop(4, 40)
    records[20] = replace(
        records[20], chunk_tokens=(2, *(1,) * 7), output_tokens=9, counted_output_tokens=9, target_output_tokens=9
    )
    d = summarise(run(records, C4)).distributions
    assert d["icl_s"].count > 0
    assert (d["itl_s"].count, d["itl_s"].mean) == (0, None)


def test_itl_is_known_without_chunk_tokens_where_chunks_equal_tokens():
    """As many chunks as tokens by usage means one each, whether or not the chunks say so."""
    records = [replace(r, chunk_tokens=None, counted_output_tokens=None) for r in closed_loop(4, 40)]
    summary = summarise(run(records, C4))
    assert summary.distributions["itl_s"].count > 0


def test_chunks_that_do_not_say_their_tokens_count_by_usage():
    """Chunks of two tokens without counts: throughput is of the usage, exactly, wherever the window's edges cut the replies."""
    records = [
        replace(r, chunk_tokens=None, counted_output_tokens=None, output_tokens=16, target_output_tokens=16)
        for r in closed_loop(4, 40)
    ]
    one_each = summarise(run(closed_loop(4, 40), C4))
    assert summarise(run(records, C4)).scalars["output_tps"] == pytest.approx(2 * one_each.scalars["output_tps"])


def test_missing_usage_makes_input_null_and_output_counted():
    """Without usage the prompt is unknown (None, not 0); output still counts where chunks say their tokens."""
    records = [replace(r, prompt_tokens=None, output_tokens=None) for r in closed_loop(4, 40)]
    summary = summarise(run(records, C4))
    assert summary.scalars["input_tps"] is None
    assert summary.scalars["total_tps"] is None
    assert summary.scalars["output_tps"] > 0
    assert summary.usage == ()


def test_tokens_known_from_nowhere_make_throughput_null():
    """Neither usage nor chunk counts: output throughput is None, not a number of chunks."""
    records = [
        replace(r, output_tokens=None, chunk_tokens=None, counted_output_tokens=None) for r in closed_loop(4, 40)
    ]
    assert summarise(run(records, C4)).scalars["output_tps"] is None


def test_failed_requests_improve_no_number():
    """A truncated reply's tokens are in no throughput, and it is in no distribution."""
    good = closed_loop(4, 400)
    mixed = [replace(r, outcome="truncated") if r.seq % 2 else r for r in good]
    all_ok, half = summarise(run(good, C4)), summarise(run(mixed, C4))
    assert half.scalars["output_tps"] == pytest.approx(all_ok.scalars["output_tps"] / 2, rel=0.02)
    for name in ("e2el_s", "ttft_s", "tpot_s", "output_tokens"):
        assert half.distributions[name].count == all_ok.distributions[name].count // 2
    assert half.distributions["icl_s"].count == pytest.approx(all_ok.distributions["icl_s"].count / 2, rel=0.02)
    assert half.outcomes == {"ok": 200, "truncated": 200}


def test_attainment_counts_dropped_and_failed_as_not_good():
    """Open loop: requests that were dropped or failed are offered and not good."""
    records = open_loop(10, 100)
    for i in (50, 51):
        records[i] = failed(records[i], "dropped", sent=False)
    records[60] = failed(records[60])
    summary = summarise(run(records, Load(rate_rps=10), slo={"ttft_from_schedule_s": 1.0, "attainment": 0.99}))
    assert summary.scalars["attainment"] == pytest.approx((95 - 3) / 95)
    assert summary.scalars["goodput_rps"] == pytest.approx(92 / 9.5)
    assert summary.scalars["goodput_tps"] == pytest.approx(92 * 8 / 9.5)


def test_one_token_replies_do_not_pass_a_tpot_limit():
    """A reply of one token has no TPOT and is not good under a TPOT limit; a note counts them."""
    records = [request(i, i / 10, scheduled_s=i / 10, tokens=1 if i % 2 else 8) for i in range(101)]
    summary = summarise(run(records, Load(rate_rps=10), slo={"tpot_s": 1.0}))
    assert summary.scalars["attainment"] == pytest.approx(0.5, abs=0.01)
    assert any("50 replies of fewer than 2 tokens" in n for n in summary.notes)


def test_no_slo_gives_null_goodput():
    """Nothing promised: goodput and attainment are None, not 0 or 1."""
    scalars = summarise(run(closed_loop(4, 40), C4)).scalars
    assert scalars["goodput_rps"] is scalars["goodput_tps"] is scalars["attainment"] is None


def test_schedule_limit_in_a_closed_loop_counts_from_the_freed_slot():
    """Closed loop: the limit on TTFT from schedule is held against first token - due_ns."""
    records = [replace(r, due_ns=r.sent_ns - 10**9) for r in closed_loop(4, 40)]
    assert summarise(run(records, C4, slo={"ttft_from_schedule_s": 0.5})).scalars["attainment"] == 0
    assert summarise(run(records, C4, slo={"ttft_s": 0.5})).scalars["attainment"] == 1


def test_ttft_from_schedule_holds_the_client_lag():
    """A send 20 ms late is 20 ms in send lag and in TTFT from schedule, and not in TTFT."""
    d = summarise(run(open_loop(10, 100, lag_s=0.02), Load(rate_rps=10))).distributions
    assert d["send_lag_s"].p50 == pytest.approx(0.02)
    assert d["ttft_s"].p50 == pytest.approx(0.05)
    assert d["ttft_from_schedule_s"].p50 == pytest.approx(0.07)


def test_whole_phase_throughput():
    """output_tps_whole is all ok tokens over first send to last token."""
    assert summarise(run([request(0, 0), request(1, 0)], Load(concurrency=2))).scalars[
        "output_tps_whole"
    ] == pytest.approx(16 / 0.12)


def test_three_token_counts():
    """Planned, counted, usage and the server's counters (two engines summed) are all there."""
    prompt, output = summarise(run(closed_loop(4, 40), C4)).tokens
    assert (prompt.planned, prompt.counted, prompt.usage, prompt.server_counter) == (5120, None, 5120, 5120)
    assert (output.planned, output.counted, output.usage, output.server_counter) == (320, 320, 320, 320)


def test_server_counters_without_an_edge_are_null():
    """Scrapes without both edges, or a counter that fell, give None and not 0."""
    records = closed_loop(4, 40)
    only_start = [s for s in edges(records) if s.edge == "start"]
    fell = [replace(s, value=s.value if s.edge == "start" else 0.0) for s in edges(records)]
    for rows in (only_start, fell, []):
        assert summarise(run(records, C4, server=rows)).tokens[1].server_counter is None


def test_harness_cpu_share_is_of_the_measured_phase():
    """CPU of the harness over that of the server between first send and last end; None where the server is not ours."""
    records = closed_loop(4, 400)
    assert summarise(run(records, C4)).scalars["harness_cpu_share"] == pytest.approx(0.01)
    data = run(records, C4)
    data.host["server_cpu_s"] = pd.array([None] * len(data.host), dtype="Float64")
    assert summarise(data).scalars["harness_cpu_share"] is None


def test_timeline_adds_up():
    """The bins' rates times their width are all tokens, and the load is seen in flight."""
    records = closed_loop(4, 400)
    series = [ServerSample(ns(t), None, "vllm:num_requests_running", "{}", 4.0) for t in range(12)]
    timeline = summarise(run(records, C4, server=edges(records) + series)).timeline
    width = timeline.t_s[1] - timeline.t_s[0]
    assert len(timeline.t_s) == 120
    assert sum(timeline.series["output_tps"]) * width == pytest.approx(3200, rel=1e-3)
    assert max(timeline.series["in_flight"]) == 4
    assert {v for v in timeline.series["server_running"] if v is not None} == {4.0}
    assert set(timeline.series) == {"output_tps", "in_flight", "host_cpu_pct", "server_running"}


def test_frames_of_the_store_give_the_same_summary():
    """The frame that the store's reader makes of the same records gives the same numbers."""
    records = [*closed_loop(4, 39), failed(request(39, 1.2))]
    data = run(records, C4)
    read = replace(data, requests=frame_of("requests", records))
    ours, theirs = summarise(data), summarise(read)
    assert theirs.scalars == ours.scalars
    assert theirs.distributions == ours.distributions
    assert theirs.tokens == ours.tokens


def test_usage_tuples_are_of_the_window():
    """One (prompt, cached, output, reasoning) for each ok request sent in the window; unreported parts are 0."""
    records = [replace(r, cached_prompt_tokens=None, reasoning_tokens=3) for r in closed_loop(4, 40)]
    assert summarise(run(records, C4)).usage == ((128, 0, 8, 3),) * 28
