"""Scenarios as plain data, for tests."""

from __future__ import annotations

from typing import Any

from harness.planner.scenario.spec import ScenarioSpec, parse_scenario


def scenario(**changes: Any) -> ScenarioSpec:
    """10 M requests a month of 800 + 200 tokens; a $4/h machine that serves 10 requests/s; hosted $0.20/$0.20 per M."""
    data: dict[str, Any] = {
        "scenario": "test",
        "as_of": "2026-11-24",
        "model": "m",
        "slo": "P99 TTFT <= 2 s",
        "workload": {"kind": "batch", "input_tokens": 800, "output_tokens": 200, "source": "declared"},
        "demand": {"requests_per_month": 10_000_000, "source": "declared"},
        "capacity": {"requests_per_s": 10, "source": "declared", "as_of": "2026-11-01"},
        "machine": {"declared": {"name": "box", "usd_per_hour": 4, "source": "quote", "as_of": "2026-11-01"}},
        "fleet": {"spares": 1, "headroom": 0.5},
        "labour": {"full_time": 0, "source": "none"},
        "hosted": [hosted()],
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) and key in data else value
    return parse_scenario(data, "test")


def hosted(usd: float = 0.2, **more: Any) -> dict[str, Any]:
    return {
        "provider": "host", "model": "m", "input_usd_per_million": usd, "output_usd_per_million": usd, "as_of": "2026-11-01",
        "source": "list", "same_model": True, **more,
    }  # fmt: skip
