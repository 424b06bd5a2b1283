"""Plans of traces, and traces of a few lines."""

from __future__ import annotations

import os

import pytest

from harness.measure.plan.drawing import draw
from harness.records import Load

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2023-11-16 18:15:46.6805900,374,44",
    "2023-11-16 18:15:50.9951690,396,109",
    "2023-11-16 18:15:51.2225670,879,55",
)
TRACE = Load(arrivals="trace")
FOLDER = os.environ.get("HARNESS_TRACES")
native = pytest.mark.skipif(not FOLDER, reason="HARNESS_TRACES does not name a folder of native trace files")


def plan_of(workload, load=TRACE, requests=None, **words):
    words = {"duration_s": None, "seed": 1, "warmup_requests": 2, "context_limit_tokens": None} | words
    return draw(str(workload), load, requests=requests, **words)


def lengths(plan):
    return [(r.target_prompt_tokens, r.target_output_tokens) for r in plan.requests]


def seconds(plan):
    return [r.scheduled_ns / 1e9 for r in plan.requests]


def write(path, *lines, end="\n"):
    path.write_bytes(end.join(lines).encode())
    return path
