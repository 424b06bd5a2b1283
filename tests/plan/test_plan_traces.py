"""Native trace files: recognised by content, read exactly, and refused with file, line, column and value."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.prefixes import hit_ratio
from harness.measure.plan.traces.values import clock_ns
from harness.records import Load
from tests.plan.trace_values import AZURE, FOLDER, lengths, native, plan_of, seconds, write


def test_azure_2023(tmp_path):
    """Seven fractional digits, CRLF, no newline at the end: times to 100 ns, lengths exactly."""
    plan, notes = plan_of(write(tmp_path / "a.csv", *AZURE, end="\r\n"))
    assert lengths(plan) == [(374, 44), (396, 109), (879, 55)]
    assert [r.scheduled_ns for r in plan.requests] == [0, 4_314_579_000, 4_541_977_000]
    assert notes[0] == "trace: Azure, 3 of 3 rows read"
    assert plan.load.rate_rps == pytest.approx(2 / 4.541977)
    assert [r.seq for r in plan.warmup] == [-1, -2]
    assert {(r.target_prompt_tokens, r.target_output_tokens) for r in plan.warmup} <= set(lengths(plan))


def test_azure_2024(tmp_path):
    """A zone, and sometimes no fraction."""
    path = write(tmp_path / "a", "TIMESTAMP,ContextTokens,GeneratedTokens", "2024-05-12 00:00:00.001163+00:00,5,6",
                 "2024-05-12 00:00:01+00:00,7,8", "2024-05-12 02:00:02.5+02:00,9,1", "")  # fmt: skip
    plan, _ = plan_of(path)
    assert [r.scheduled_ns for r in plan.requests] == [0, 998_837_000, 2_498_837_000]


@pytest.mark.parametrize(
    "text",
    ["2023-11-16 18:15:46.6805900", "2024-02-29T23:59:59Z", "2024-05-12 02:00:00.5+02:00", "1970-01-01 00:00:00"],
)
def test_clock_is_the_calendars(text):
    """Clock times agree with datetime's, to the microsecond that it keeps."""
    found = datetime.fromisoformat(text)
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    expected = (found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    assert clock_ns(text) / 1e9 == pytest.approx(expected, abs=1e-6)


def test_burstgpt(tmp_path):
    """BurstGPT 1, 2 and 3: columns by name, failures (output 0) left out and counted, sessions kept, whole seconds spread."""
    old = write(tmp_path / "b1.csv", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
                "5,ChatGPT,472,18,490,Conversation log", "45,ChatGPT,1087,230,1317,Conversation log",
                "118,GPT-4,0,0,0,API log", "118,GPT-4,417,276,693,API log")  # fmt: skip
    plan, notes = plan_of(old)
    assert lengths(plan) == [(472, 18), (1087, 230), (417, 276)]
    assert "trace: 1 rows of requests that failed (output 0) left out" in notes
    new = write(tmp_path / "b3.csv",
                "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
                "5,s1,1.2,ChatGPT,472,18,490,x", "6,s2,1.2,ChatGPT,10,20,30,x", "7,s1,1.2,ChatGPT,30,40,70,x",
                "7,s1,1.2,ChatGPT,31,41,72,x")  # fmt: skip
    plan, notes = plan_of(new)
    assert [r.session_id for r in plan.requests] == [0, 1, 0, 0]
    assert [int(s) for s in np.array(seconds(plan))] == [0, 1, 2, 2]
    assert any("ticks of 1 s" in note for note in notes)


def mooncake(tmp_path):
    rows = [(0, 900, 10, [0, 1]), (0, 1500, 20, [0, 1, 2]), (3000, 1024, 30, [0, 9]), (6000, 600, 5, [0, 9])]
    lines = (json.dumps({"timestamp": t, "input_length": p, "output_length": o, "hash_ids": h}) for t, p, o, h in rows)
    return write(tmp_path / "m.jsonl", *lines)


def test_mooncake(tmp_path):
    """Milliseconds, blocks of 512 tokens, ticks of 3 s spread inside the tick; equal chains are equal prefixes."""
    plan, notes = plan_of(mooncake(tmp_path))
    times = seconds(plan)
    assert times == sorted(times)
    assert [int(t // 3) for t in times] == [0, 0, 1, 2]
    assert any("ticks of 3 s" in note for note in notes)
    seeds = [r.prompt_seed for r in plan.requests]
    assert [r.prefix for r in plan.requests] == [
        (), (seeds[0], 1024), (seeds[0], 512), (seeds[0], 512, seeds[2], 88)
    ]  # fmt: skip
    assert hit_ratio(plan.requests, 512).by_token == pytest.approx((900 + 512 + 600) / (900 + 1500 + 1024 + 600))


def test_a_duration_leaves_the_prefixes_of_what_is_sent(tmp_path):
    """Of a recording that is brought to a rate and cut short by a duration, the prompts that remain begin as they did."""
    load = Load(rate_rps=0.5, arrivals="trace")
    whole = plan_of(mooncake(tmp_path), load)[0].requests
    cut = plan_of(mooncake(tmp_path), load, duration_s=5.0)[0].requests
    assert 2 <= len(cut) < len(whole)
    assert [r.prefix[1::2] for r in cut] == [r.prefix[1::2] for r in whole][: len(cut)]


def test_scale_keeps_the_hit_ratio(tmp_path):
    """Lengths and blocks times 1/64: the same sharing in prompts that fit a small context. A scale without whole blocks
    is refused."""
    plan, notes = plan_of(f"{mooncake(tmp_path)}?scale=0.015625")
    assert lengths(plan) == [(14, 1), (23, 1), (16, 1), (9, 1)]
    assert [r.prefix[1::2] for r in plan.requests] == [(), (16,), (8,), (8, 1)]
    assert "times 0.015625" in notes[0]
    with pytest.raises(ConfigError, match="whole blocks"):
        plan_of(f"{mooncake(tmp_path)}?scale=0.0157")


def test_bailian(tmp_path):
    """Seconds as fractions, sessions are chains of parents, blocks of 16 tokens."""
    rows = [
        (1, -1, 0.5, 30, [7, 8]),
        (2, -1, 1.25, 20, [9, 10]),
        (3, 1, 2.0, 60, [7, 8, 11, 12]),
        (4, 3, 4.0, 70, [7, 8, 11, 12, 13]),
    ]
    lines = [json.dumps({"chat_id": c, "parent_chat_id": p, "timestamp": t, "input_length": n, "output_length": 5,
                         "type": "text", "turn": 1, "hash_ids": h}) for c, p, t, n, h in rows]  # fmt: skip
    plan, _ = plan_of(write(tmp_path / "q", *lines))
    assert seconds(plan) == [0, 0.75, 1.5, 3.5]
    assert [r.session_id for r in plan.requests] == [0, 1, 0, 0]
    assert plan.requests[3].prefix == (plan.requests[0].prompt_seed, 32, plan.requests[2].prompt_seed, 32)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "gzip", "usage"])
def test_plain_files(tmp_path, kind):
    """Our own columns in CSV, JSONL, Parquet and packed, and a proxy's log with `usage`: the same plan."""
    frame = pd.DataFrame({"prompt_tokens": [5, 6, 7], "output_tokens": [1, 2, 3], "arrival_s": [10.0, 10.25, 12.0],
                          "session": ["a", "b", "a"]})  # fmt: skip
    path = tmp_path / "own"
    match kind:
        case "csv":
            frame.to_csv(path, index=False)
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path)
        case "gzip":
            path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
        case _:
            stamps = ("2026-01-01T00:00:10", "2026-01-01T00:00:10.250", "2026-01-01T00:00:12Z")
            write(path, *(json.dumps({"startTime": s, "usage": {"prompt_tokens": p, "completion_tokens": o}, "session_id": i})
                          for s, p, o, i in zip(stamps, (5, 6, 7), (1, 2, 3), "aba", strict=True)))  # fmt: skip
    plan, _ = plan_of(f"{path.rename(tmp_path / 'own.csv')}")
    assert lengths(plan) == [(5, 1), (6, 2), (7, 3)]
    assert seconds(plan) == [0, 0.25, 2]
    assert [r.session_id for r in plan.requests] == [0, 1, 0]


def numbered(tmp_path, count=1000, session=lambda i: i // 10):
    path = tmp_path / "n.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt_tokens", "output_tokens", "arrival_s", "session"])
        rows.writerows([i + 1, 2, i / 10, session(i)] for i in range(count))
    return path


def test_slices_speed_and_rate(tmp_path):
    """from, to, limit, a number of requests, a duration, a speed-up and a rate each choose what they say."""
    path = numbered(tmp_path)
    plan, _ = plan_of(f"{path}?from=10&to=20")
    assert lengths(plan) == [(i + 1, 2) for i in range(100, 200)]
    assert plan.requests[1].scheduled_ns == 100_000_000
    assert len(plan_of(f"{path}?limit=7")[0].requests) == 7
    assert len(plan_of(path, requests=9)[0].requests) == 9
    assert len(plan_of(path, Load(arrivals="trace:4"), duration_s=5.0)[0].requests) == 200
    plan, notes = plan_of(path, Load(rate_rps=40.0, arrivals="trace"), duration_s=5.0)
    assert len(plan.requests) == 200
    assert any("divided by 4" in note for note in notes)
    for to_s, duration_s, rows in ((20, 5.0, 50), (5, 20.0, 50), (20, 5.01, 51)):  # whichever ends first
        assert len(plan_of(f"{path}?to={to_s}", duration_s=duration_s)[0].requests) == rows
    plan, _ = plan_of(path, Load(rate_rps=3.0), requests=50)
    assert lengths(plan) == [(i + 1, 2) for i in range(50)]
    assert plan_of(path, Load(concurrency=2), requests=50)[0].requests[0].scheduled_ns is None
    assert plan_of(path, Load(rate_rps=3.0), requests=60)[0].requests[:50] == plan.requests


def test_sampling_keeps_sessions_whole(tmp_path):
    """A share of a half keeps about half of 100 sessions, each with its ten rows; the seed decides which."""
    path = numbered(tmp_path)
    plan, notes = plan_of(f"{path}?sample=0.5")
    counts = np.bincount([r.session_id for r in plan.requests])
    assert set(counts) <= {0, 10}
    assert 30 <= (counts == 10).sum() <= 70
    assert any("share of 0.5 of the sessions, whole" in note for note in notes)
    assert plan_of(f"{path}?sample=0.5", seed=2)[0].requests != plan.requests
    assert plan_of(f"{path}?sample=0.5")[0].sha256 == plan.sha256


def test_sampling_rows_without_sessions(tmp_path):
    """Where no column names a session each row is drawn by itself: about half of 1,000, and the note says rows."""
    lines = [f"{at},{at + 1},2" for at in range(1000)]
    path = write(tmp_path / "rows.csv", "arrival_s,prompt_tokens,output_tokens", *lines)
    plan, notes = plan_of(f"{path}?sample=0.5", Load(concurrency=2), requests=400)
    whole, _ = plan_of(f"{path}?sample=0.5", Load(concurrency=2), requests=420)
    assert whole.requests[:400] == plan.requests
    chosen = [r.target_prompt_tokens for r in whole.requests]
    assert chosen == sorted(set(chosen))
    assert 700 < chosen[-1] <= 1000
    assert any("share of 0.5 of the rows" in note for note in notes)


def test_a_system_prompt_goes_before_a_trace_without_hashes(tmp_path):
    """`?system=N` is shared by its prompts; a trace that says itself what prompts share refuses it."""
    plan, _ = plan_of(f"{write(tmp_path / 'a.csv', *AZURE)}?system=100")
    assert [r.prefix[1::2] for r in plan.requests] == [(100,)] * 3
    with pytest.raises(ConfigError, match="exclude each other"):
        plan_of(f"{mooncake(tmp_path)}?system=100")


def test_context_limit_drops_or_cuts(tmp_path):
    """Rows above the limit are dropped, or their prompt cut to it, and counted either way."""
    path = numbered(tmp_path)
    plan, notes = plan_of(path, context_limit_tokens=500)
    assert len(plan.requests) == 498
    assert "trace: context limit 500 tokens: 502 longer requests dropped, 0 prompts cut" in notes
    plan, notes = plan_of(f"{path}?context=truncate", context_limit_tokens=500)
    assert len(plan.requests) == 1000
    assert max(p + o for p, o in lengths(plan)) == 500
    assert any("502 prompts cut" in note for note in notes)


def test_digest_does_not_depend_on_where_the_file_is(tmp_path):
    """The same rows in another folder are the same plan; one changed length is another."""
    (tmp_path / "x").mkdir()
    one = plan_of(write(tmp_path / "a.csv", *AZURE))[0].sha256
    assert plan_of(write(tmp_path / "x" / "b.csv", *AZURE))[0].sha256 == one
    changed = (*AZURE[:-1], AZURE[-1].replace("879", "880"))
    assert plan_of(write(tmp_path / "c.csv", *changed))[0].sha256 != one


# ---------------------------------------------------------------- the files themselves


@native
def test_native_azure_conv():
    """The whole file: times to 1 ms, lengths exactly, against pandas."""
    path = Path(FOLDER) / "AzureLLMInferenceTrace_conv.csv"
    frame = pd.read_csv(path, parse_dates=["TIMESTAMP"])
    offsets = (frame["TIMESTAMP"] - frame["TIMESTAMP"].iloc[0]).dt.total_seconds()
    plan, _ = plan_of(path)
    assert lengths(plan) == list(zip(frame["ContextTokens"], frame["GeneratedTokens"], strict=True))
    assert np.abs(np.array(seconds(plan)) - offsets.to_numpy()).max() < 0.001


@native
def test_native_mooncake():
    """The 600 s slice: lengths exactly, times within their tick, and the hit ratio of a cache of its own blocks."""
    path = Path(FOLDER) / "mooncake_conversation_first600s.jsonl"
    frame = pd.read_json(path, lines=True)
    plan, _ = plan_of(path)
    assert lengths(plan) == list(zip(frame["input_length"], frame["output_length"], strict=True))
    late = np.array(seconds(plan)) - frame["timestamp"].to_numpy() / 1e3
    assert (late >= 0).all()
    assert (late < 3.001).all()
    seen, hit = set(), 0
    for row in frame.itertuples():
        known = next((i for i, block in enumerate(row.hash_ids) if block not in seen), len(row.hash_ids))
        seen.update(row.hash_ids)
        hit += min(known * 512, row.input_length)
    assert hit_ratio(plan.requests, 512).by_token == pytest.approx(hit / frame["input_length"].sum(), abs=1e-9)


@native
def test_native_sessions():
    """Three recorded sessions: every call with its lengths, at its time, and a call's prompt shares what its hashes say."""
    plan, _ = plan_of(Path(FOLDER) / "weka")
    calls = []
    for file in sorted((Path(FOLDER) / "weka").glob("*.json")):
        calls += [(r["t"], r["in"], r["out"]) for r in json.loads(file.read_text())["requests"]]
    assert sorted(
        (r.scheduled_ns / 1e9, r.target_prompt_tokens, r.target_output_tokens) for r in plan.requests
    ) == sorted(calls)
    assert hit_ratio(plan.requests, 64).by_block > 0.8
