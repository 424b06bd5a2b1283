"""A server's own series by meaning, under the names of every version, and what is UNKNOWN without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.server_state import by_scrape, expected, missing, on_page, rise, rise_tokens, scalars, series
from harness.judge.summary import summarise
from harness.records import Load, ServerSample
from tests.judge.run_builder import closed_loop, edges, frame, ns, run

C4 = Load(concurrency=4)
ROWS = [replace(r, cached_prompt_tokens=None) for r in closed_loop(4, 400)]
NAME = "vllm:num_preemptions_total"


def sample(at, value, edge=None, labels="{}", metric=NAME):
    return ServerSample(ns(at), edge, metric, labels, value)


def test_a_series_is_taken_over_its_labels_at_each_scrape():
    """In order of time; at an edge only those scrapes; as a sum, a mean or the highest; of nothing nothing."""
    rows = [sample(2, 5.0, "end", "b"), sample(1, 2.0, "start"), sample(2, 1.0, "end", "a"), sample(3, 4.0)]
    rows.append(sample(1, 9.0, metric="vllm:num_requests_running"))
    stamps, values = by_scrape(frame(rows, ServerSample), "preemptions", None)
    assert (stamps.tolist(), values.tolist()) == ([ns(1), ns(2), ns(3)], [2.0, 6.0, 4.0])
    assert by_scrape(frame(rows, ServerSample), "preemptions", None, "end", "mean")[1].tolist() == [3.0]
    assert by_scrape(frame(rows, ServerSample), "preemptions", None, "end", "max")[1].tolist() == [5.0]
    for server in (None, frame([], ServerSample), frame(rows[-1:], ServerSample)):
        assert [part.tolist() for part in by_scrape(server, "preemptions", None)] == [[], []]


def test_the_rise_of_a_counter():
    """Between the last scrapes at both edges; none where one is missing or it fell; 0 where it stood still."""
    rows = [
        sample(1, 7.0, "start"),
        sample(2, 10.0, "start"),
        sample(8, 13.0, "end"),
        sample(9, 17.5, "end"),
        sample(5, 99.0),
    ]

    def risen(some):
        return rise(frame(some, ServerSample), "preemptions", None)

    assert risen(rows) == 7.5
    assert risen([*rows[1:2], replace(rows[1], edge="end")]) == 0
    assert risen([*rows[1:2], sample(9, 9.9, "end")]) is None
    assert risen(rows[:2]) is risen(rows[2:]) is None


def test_every_version_from_0_6_on_has_its_names():
    """The newest name for the newest, the old ones for their versions, none for hits before there were counters of them."""
    of_version = {
        "0.6.3": ("vllm:gpu_cache_usage_perc", None),
        "0.8.5.post1": ("vllm:gpu_cache_usage_perc", "vllm:gpu_prefix_cache_hits_total"),
        "0.9.2": ("vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total"),
        "0.32.0": ("vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total"),
        "0.33.0+cu130": ("vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total"),
    }
    for version, names in of_version.items():
        found = [expected(m, version) for m in ("kv_cache_use", "prefix_hits")]
        assert tuple(one and one.name for one in found) == names
        assert expected("preemptions", version).name == NAME
    assert expected("prefix_hits", "0.8.5").unit == "blocks"
    assert expected("prefix_hits", None) is expected("prefix_hits", "0.1.dev1+g123") is None
    assert all(one.source and one.since for names in series().values() for one in names)


def test_the_names_of_a_page_of_0_32_are_found(request):
    """Every meaning but speculative decoding is on a page that was captured from vLLM 0.32.0, under the name of that version."""
    text = (request.config.rootpath / "tests" / "golden" / "vllm_metrics_0.32.0.txt").read_text(encoding="utf-8")
    names = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    for meaning in series():
        found = on_page(meaning, names, "0.32.0")
        if meaning in ("draft_tokens", "accepted_tokens", "model"):  # the last is a label
            assert found is None
        else:
            assert found == expected(meaning, "0.32.0")


def counters(prefix, hits, queries):
    samples = edges(ROWS)
    for name, risen in (("hits", hits), ("queries", queries)):
        metric = f"vllm:{prefix}_{name}_total"
        samples += [sample(-1, 5.0, "start", metric=metric), sample(1e4, 5.0 + risen, "end", metric=metric)]
    return samples


def reasons(server, version=None, **cache_config):
    target = {
        "kind": "adopt",
        "model": "m",
        "metrics_url": "http://x/metrics",
        "server_version": version,
        "cache_config": cache_config,
    }
    found = summarise(run(ROWS, C4, server=server, target=target)).verdict.reasons
    return {r.code: r.severity for r in found}, " ".join(r.message for r in found)


def test_a_server_without_counters_of_hits_is_unknown():
    """Neither usage nor a counter tells of cached tokens: UNKNOWN, naming what this version calls them; not 0 of 0."""
    codes, message = reasons(edges(ROWS), "0.32.0")
    assert codes == {"prefix_cache_unseen": "unknown"}
    assert "vllm:prefix_cache_hits_total (vLLM 0.32.0)" in message
    codes, message = reasons(edges(ROWS))
    assert codes == {"prefix_cache_unseen": "unknown"}
    assert "vllm:prefix_cache_hits_total or vllm:gpu_prefix_cache_hits_total" in message
    assert reasons(edges(ROWS), enable_prefix_caching="False")[0] == {}


PROMPT = sum(r.target_prompt_tokens for r in ROWS)


@pytest.mark.parametrize(
    ("prefix", "version", "per", "config"),
    [
        ("prefix_cache", "0.32.0", 1, {}),
        ("gpu_prefix_cache", "0.9.1", 1, {}),
        ("gpu_prefix_cache", "0.8.5", 16, {"block_size": "16"}),
    ],
    ids=["0.32", "0.9.1", "0.8.5 in blocks"],
)
def test_hits_are_found_under_the_names_and_units_of_every_version(prefix, version, per, config):
    """Half of the prompt tokens from the cache: INVALID in every version; none: nothing to say."""
    assert reasons(counters(prefix, PROMPT / 2 / per, PROMPT / per), version, **config)[0] == {
        "prefix_cache": "invalid"
    }
    assert reasons(counters(prefix, 0, PROMPT / per), version, **config)[0] == {}


def test_hits_in_a_unit_that_is_not_known_are_unknown():
    """Blocks of a size that is not told, and the old name of a version that is not: no number of tokens."""
    assert reasons(counters("gpu_prefix_cache", 0, 10), "0.8.5")[0] == {"prefix_cache_unseen": "unknown"}
    assert reasons(counters("gpu_prefix_cache", 0, 10))[0] == {"prefix_cache_unseen": "unknown"}


def test_blocks_are_tokens_of_their_size():
    """10 blocks of 16: 160 tokens."""
    target = {"server_version": "0.8.5", "cache_config": {"block_size": "16"}}
    manifest = run(ROWS, C4, target=target).manifest
    assert rise_tokens(frame(counters("gpu_prefix_cache", 10, 20), ServerSample), "prefix_hits", manifest) == 160
    assert missing(None, None, "running") == "vllm:num_requests_running"


def test_without_a_window_the_cache_has_no_highest_share():
    """A scrape outside of any window is nobody's maximum."""
    server = frame([sample(5.0, 0.5, metric="vllm:kv_cache_usage_perc")], ServerSample)
    assert scalars(server, run(ROWS, C4).manifest, None)["kv_cache_use_max"] is None


def test_a_servers_own_series_are_metrics_of_a_run():
    """Preemptions, hits and drafts over the phase, the KV cache's highest share in the window, over engines; None where untold."""
    server = counters("prefix_cache", 30, 120)
    for metric, risen in (
        (NAME, 3),
        ("vllm:spec_decode_num_draft_tokens_total", 200),
        ("vllm:spec_decode_num_accepted_tokens_total", 150),
    ):
        server += [sample(-1, 5.0, "start", metric=metric), sample(1e4, 5.0 + risen, "end", metric=metric)]
    for at, first, second in ((-0.5, 0.99, 0.99), (5.0, 0.25, 0.5), (6.0, 0.125, 0.25)):
        for engine, used in (("0", first), ("1", second)):
            server.append(sample(at, used, labels=f'{{"engine": "{engine}"}}', metric="vllm:kv_cache_usage_perc"))
    summary = summarise(run(ROWS, C4, server=server))
    told = {
        name: summary.scalars[name]
        for name in ("preemptions", "kv_cache_use_max", "prefix_hit_share", "draft_acceptance")
    }
    assert told == {"preemptions": 3, "kv_cache_use_max": 0.5, "prefix_hit_share": 0.25, "draft_acceptance": 0.75}
    assert [v for v in summary.timeline.series["kv_cache_use"] if v is not None] == [0.375, 0.1875]
    nothing = summarise(run(ROWS, C4)).scalars
    assert {nothing[name] for name in told} == {None}
