"""What a metrics page says: a real one of vLLM, those of other engines by their names, and what is no page at all."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import get_args

import pytest

from harness.config.monitor import Engine
from harness.monitor.engines import READ, engine_series
from harness.monitor.page import PAGE_COUNTERS, PAGE_GAUGES, PageError, PageReader

GOLDEN = Path(__file__).parents[1] / "golden" / "vllm_metrics_0.32.0.txt"
NAMES = (*PAGE_COUNTERS, *PAGE_GAUGES)


def numbers(page, key) -> dict[str, float | None]:
    return dict(zip(NAMES, page.numbers(key), strict=True))


def test_a_page_of_the_real_vllm():
    """Counts, the process's start and the buckets of a page that was captured from vLLM 0.32.0."""
    page = PageReader("vllm").read(GOLDEN.read_text())
    assert page.keys == (("tiny", ""),)
    found = numbers(page, ("tiny", ""))
    assert (found["prompt_tokens"], found["output_tokens"], found["requests"], found["errors"]) == (8532, 3480, 282, 0)
    assert found["cached_tokens"] == found["preemptions"] == found["running"] == 0
    assert found["draft_tokens"] is None
    assert page.started_utc_ns == 1_795_520_968_760_000_000
    assert page.missing == ()
    for le, counts in page.histograms(("tiny", "")):
        assert le[-1] == inf
        assert list(le) == sorted(le)
        assert counts[-1] == 282
        assert list(counts) == sorted(counts)


def test_a_page_seen_before_is_read_by_its_heads_and_gives_the_same():
    """Other values on the same lines: the second page is parsed by no parser, and is right."""
    text = GOLDEN.read_text()
    reader = PageReader("vllm")
    first = reader.read(text)
    heads = dict(reader._heads)
    later = reader.read(text.replace(" 3480.0", " 4000.5"))
    assert reader._heads == heads
    assert numbers(first, ("tiny", ""))["output_tokens"] == 3480
    assert numbers(later, ("tiny", ""))["output_tokens"] == 4000.5
    assert PageReader("vllm").read(text).histograms(("tiny", "")) == first.histograms(("tiny", ""))


PAGES = {
    "sglang": ('model_name="q"', "q", {"requests": 12.0, "errors": 2.0, "kv_cache_use": 0.5}),
    "tgi": ("", "pool", {"requests": 12.0, "errors": 2.0, "kv_cache_use": None}),
    "llamacpp": ("", "pool", {"prompt_tokens": 20.0, "cached_tokens": 10.0, "requests": None, "kv_cache_use": 0.5}),
    "dynamo": ('model="q"', "q", {"requests": 12.0, "errors": 2.0, "kv_cache_use": None}),
    "vllm": ('model_name="q"', "q", {"requests": 14.0, "errors": 4.0, "kv_cache_use": 0.5}),
}


@pytest.mark.parametrize("engine", PAGES)
def test_every_engines_names_are_read(engine):
    """A page with each of an engine's names: all of it arrives, shares of engines as means, what is added is added."""
    labels, model, expected = PAGES[engine]
    lines = []
    for name in sorted(engine_series(engine).names):
        value = 0.5 if "usage" in name else 2.0 if ("abort" in name or "failure" in name) else 10.0
        extra = {
            "vllm:request_success_total": ("finished_reason", ("stop", "abort", "error")),
            "dynamo_frontend_requests_total": ("status", ("success", "error")),
        }
        if name in extra:
            label, values = extra[name]
            lines += [f'{name}{{{labels},{label}="{v}"}} {10.0 if v in ("stop", "success") else 2.0}' for v in values]
        elif name.endswith("_bucket"):
            sep = "," if labels else ""
            lines += [f'{name}{{{labels}{sep}le="{le}"}} {n}' for le, n in (("0.1", 3), ("+Inf", 7))]
        else:
            lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")
    page = PageReader(engine, unnamed="pool").read("\n".join(lines) + "\n")
    assert page.keys == ((model, ""),)
    found = numbers(page, (model, ""))
    assert {name: found[name] for name in expected} == expected
    assert found["output_tokens"] == 10.0
    assert page.missing == ()
    has = set(engine_series(engine).series)
    for name, (le, counts) in zip(("ttft", "tpot", "queue", "e2el"), page.histograms((model, "")), strict=True):
        assert (le, counts) == (((0.1, inf), (3.0, 7.0)) if name in has else ((), ())), name


def test_every_name_has_a_source_and_every_meaning_is_known():
    """Dated data: each entry of each engine says where its name was read, and what it means."""
    for engine in get_args(Engine):
        series = engine_series(engine).series
        assert set(series) <= set(READ)
        assert all(one.source for names in series.values() for one in names)
        assert {"prompt_tokens", "output_tokens"} <= set(series)


def test_engines_of_a_server_are_summed_and_tenants_told_apart():
    """Two engine ranks are one server: sums, and a mean for the use of the KV cache; the tenant's label makes rows."""
    text = "".join(
        f'vllm:generation_tokens_total{{engine="{e}",model_name="q",user="{u}"}} {n}\n'
        for e, u, n in ((0, "a", 1), (1, "a", 2), (0, "b", 5))
    ) + "".join(
        f'vllm:kv_cache_usage_perc{{engine="{e}",model_name="q",user="a"}} {n}\n' for e, n in ((0, 0.2), (1, 0.4))
    )
    page = PageReader("vllm", "user").read(text)
    assert set(page.keys) == {("q", "a"), ("q", "b")}
    assert numbers(page, ("q", "a"))["output_tokens"] == 3
    assert numbers(page, ("q", "a"))["kv_cache_use"] == pytest.approx(0.3)
    whole, _ = page.whole(page.keys)
    assert dict(zip(NAMES, whole, strict=True))["output_tokens"] == 8
    assert PageReader("vllm").read(text).keys == (("q", ""),)


def test_the_newest_name_counts_where_a_page_has_both():
    """Releases between have the old name and the new one: one of them is read, not their sum."""
    labels = 'model_name="q"'
    text = f"vllm:kv_cache_usage_perc{{{labels}}} 0.5\nvllm:gpu_cache_usage_perc{{{labels}}} 0.5\n"
    text += f"vllm:prompt_tokens_cached_total{{{labels}}} 7\nvllm:prefix_cache_hits_total{{{labels}}} 9\n"
    found = numbers(PageReader("vllm").read(text), ("q", ""))
    assert (found["kv_cache_use"], found["cached_tokens"]) == (0.5, 7)


def test_a_start_is_told_by_the_age_of_counters_where_no_process_tells():
    """Without process_start_time_seconds the oldest of the counters that are read."""
    text = 'vllm:prompt_tokens_total{model_name="q"} 1\nvllm:prompt_tokens_created{model_name="q"} 1.5e9\nvllm:generation_tokens_created{model_name="q"} 1.6e9\n'
    assert PageReader("vllm").read(text).started_utc_ns == 1_500_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!DOCTYPE html><html><body>Welcome</body></html>", "HTML instead of metrics"),
        ("", "the page is empty"),
        ("# HELP x y\n", "the page is empty"),
        ('{"detail": "Not Found"}', "not of a metrics page"),
        ("sglang:num_running_reqs 3\nsglang:num_queue_reqs 1\n", "those of sglang: set engine: sglang"),
        ("node_load1 0.5\n", "no series of vllm"),
        ('vllm:generation_tokens_total{model_name="q"} many\n', "not of a metrics page"),
    ],
)
def test_what_is_no_page_of_the_engine_says_why(text, says):
    """HTML, JSON, nothing, another engine's page: a reason, and what to do."""
    with pytest.raises(PageError, match=says):
        PageReader("vllm").read(text)


def test_series_that_a_page_lacks_are_named():
    """A page with some of the names says which others were looked for."""
    page = PageReader("vllm").read('vllm:generation_tokens_total{model_name="q"} 1\n')
    assert "vllm:prompt_tokens_total" in page.missing
    assert "vllm:time_to_first_token_seconds_bucket" in page.missing
    assert "vllm:generation_tokens_total" not in page.missing
