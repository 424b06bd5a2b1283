"""Rows 19-22 of the audit: memory, and what a stream can be fed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from harness.model.memory import kv_bytes_per_token, paged_against_preallocated, weight_bytes
from harness.model.shape import load_model
from harness.planner.instances import machines

_Entry = tuple[int, str, Callable[[], Mapping[str, Decimal | float | int | str]], str]
PRICED_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)  # the day of the audit's prices
_CODE_34B_WEIGHTS = 33.7e9  # parameters of CodeLlama-34B, by its model card


def _bandwidth(name: str) -> tuple[float, float]:
    """(bytes/s of all GPUs, bytes of memory of all GPUs) of an instance."""
    machine = next(m for m in machines(PRICED_AT) if m.name == name)
    assert machine.bandwidth_gb_per_s_each is not None
    assert machine.memory_gb_each is not None
    count = machine.gpu_count
    return float(machine.bandwidth_gb_per_s_each) * 1e9 * count, float(machine.memory_gb_each) * 1e9 * count


def _row_19() -> Mapping[str, float]:
    before, after = 140 * 10, 140 + 0.1 * 140 * 10
    return {"right": (before - after) / before, "requests": 1 / (0.9 - 0.827), "limit": 0.9}


def _row_20() -> Mapping[str, float]:
    model = load_model("llama-2-70b")
    batch = paged_against_preallocated(model, requests=10, used_tokens=512, slots=4096, weights_bytes=140e9)
    return {
        "per_token": kv_bytes_per_token(model), "before": batch.preallocated / 1e9, "after": batch.paged / 1e9,
        "total": batch.saved_of_total, "kv": batch.saved_of_kv,
    }  # fmt: skip


def _row_21() -> Mapping[str, float]:
    large, small = weight_bytes(load_model("llama-3.3-70b")), weight_bytes(load_model("mistral-7b-v0.1"))
    a10g, a10g_memory = _bandwidth("aws/g5.12xlarge")
    a100, _ = _bandwidth("aws/p4d.24xlarge")
    h100, _ = _bandwidth("aws/p5.4xlarge")
    return {
        "needed": large * 125 / 1e12, "has": a10g / 1e12, "ceiling": a10g / large, "weights": large / 1e9,
        "memory": a10g_memory / 1e9, "a100": a100 / large, "needed_7b": small * 280 / 1e12, "h100": h100 / small,
    }  # fmt: skip


def _row_22() -> Mapping[str, float]:
    return {"times": weight_bytes(load_model("llama-3.3-70b")) / (_CODE_34B_WEIGHTS * 2), "post": 95 / 125}


def memory_rows() -> tuple[_Entry, ...]:
    """Row number, claim, values, text."""
    return (
        (19, "memory savings: 82.7 %", _row_19, "its own function returns {right:.1%}; 82.7 % would take {requests:.1f} requests, and {limit:.0%} is its limit"),
        (20, "weights once a request, KV 10 % of them", _row_20, "weights once; KV of Llama-2-70B is {per_token:,} bytes a token: 10 requests {before:.1f} GB preallocated, {after:.1f} paged: {total:.2%} of the total, {kv:.0%} of the KV part"),
        (21, "125, 280, 95 tokens/s, units not given", _row_21, "as one stream impossible: 70B at 125 needs {needed:.1f} TB/s, 4 x A10G have {has:.1f} (ceiling {ceiling:.0f}, and {weights:.0f} GB do not fit in {memory:.0f}), 8 x A100 reach {a100:.0f}; 7B at 280 needs {needed_7b:.2f} TB/s, an H100 reaches {h100:.0f}; as total it is 10-50 times too low. Never both in one column"),
        (22, "34B is slower (95) than 70B (125)", _row_22, "on the same hardware 34B reads {times:.1f} times fewer bytes a token, so it is faster, not {post:.2f} times as fast: hardware, precision, TP and concurrency must be columns"),
    )  # fmt: skip
