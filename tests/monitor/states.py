"""States of a monitor made by hand: every figure that a view can have, over the four windows."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from harness.records import (
    WINDOWS,
    Advice,
    CapacityOfRun,
    MonitorGroup,
    MonitorLine,
    MonitorState,
    MonitorView,
    PaidServer,
    PriceOfPool,
    ServerWatch,
)

NS = 1_000_000_000
AT = int(datetime(2026, 11, 26, 15, 40, tzinfo=UTC).timestamp()) * NS
SECONDS = {"1m": 60, "1h": 3600, "24h": 86_400, "month": 25 * 86_400 + 56_400}
PERCENTILES = [f"{of}_{share}_{end}_s" for of in ("ttft", "tpot", "queue", "e2el") for share in ("p50", "p90", "p99") for end in ("low", "high")]  # fmt: skip
LINES = [  # name, unit
    *((name, unit) for name, unit in {
        "prompt_tokens": "tokens", "cached_tokens": "tokens", "output_tokens": "tokens", "requests": "requests",
        "errors": "requests", "preemptions": "preemptions", "input_tps": "tokens/s", "output_tps": "tokens/s",
        "request_rps": "requests/s", "usd": "$", "usd_per_hour": "$/h", "usd_per_million_output_tokens": "$/M",
        "usd_per_million_total_tokens": "$/M", "usd_per_1000_requests": "$", "utilisation": "share",
        "capacity_rps": "requests/s", "idle_usd": "$", "idle_spares_usd": "$", "idle_headroom_usd": "$",
        "idle_shape_usd": "$", "idle_waste_usd": "$", "prefix_hit_share": "share", "prefix_saved_usd": "$",
        "draft_acceptance": "share", "preemption_share": "share", "attainment_low": "share", "attainment_high": "share",
        "budget_burn_low": "", "budget_burn_high": "", "j_per_output_token": "J", "energy_usd": "$", "hosted_usd": "$",
        "break_even_rps": "requests/s", "watched_s": "s", "gap_s": "s", "restarts": "restarts",
        "lost_restarts": "restarts",
    }.items()),
    *((name, "s") for name in PERCENTILES),
]  # fmt: skip


def group(kind: str, name: str, seconds: float, share: float = 1.0, **given: float | None) -> MonitorGroup:
    """What 4 requests a second of 100 + 50 tokens on machines at 6 dollars an hour come to, `share` of it; `given` replaces values."""
    requests = 4 * seconds * share
    values: dict[str, float | None] = {
        "prompt_tokens": 100 * requests, "cached_tokens": 30 * requests, "output_tokens": 50 * requests,
        "requests": requests, "errors": requests / 100, "preemptions": 3, "input_tps": 400 * share,
        "output_tps": 200 * share, "request_rps": 4 * share, "usd": seconds * share / 600, "usd_per_hour": 6 * share,
        "usd_per_million_output_tokens": 8.333, "usd_per_million_total_tokens": 2.778, "usd_per_1000_requests": 0.4167,
        "utilisation": 0.4, "capacity_rps": 10 * share, "idle_usd": seconds * share / 1000,
        "idle_spares_usd": seconds * share / 4000, "idle_headroom_usd": seconds * share / 4000,
        "idle_shape_usd": seconds * share / 4000, "idle_waste_usd": seconds * share / 4000, "prefix_hit_share": 0.3,
        "prefix_saved_usd": 0.25, "draft_acceptance": 0.7, "preemption_share": 0.01, "attainment_low": 0.985,
        "attainment_high": 0.995, "budget_burn_low": 0.5, "budget_burn_high": 1.5, "j_per_output_token": 2.0,
        "energy_usd": 0.01, "hosted_usd": 12.5, "break_even_rps": 6.5, "watched_s": seconds, "gap_s": 0,
        "restarts": 1, "lost_restarts": 0,
    }  # fmt: skip
    values |= {name: 0.25 if "low" in name else 0.5 for name in PERCENTILES}
    values |= given
    lines = tuple(MonitorLine(name=line, label=line.replace("_", " "), value=values.get(line), unit=unit, formula="by hand") for line, unit in LINES)  # fmt: skip
    return MonitorGroup(kind=kind, name=name, lines=lines)


def advice(name: str = "fewer_replicas", usd: str = "312.50") -> Advice:
    return Advice(
        name=name, says="one replica fewer from 22:00 to 06:00", usd_per_month=Decimal(usd), low_usd=Decimal(200),
        high_usd=Decimal(420), formula="8 h x 30 x $1.30", evidence="14 days", unless="nights become busier",
    )  # fmt: skip


def view(seconds: float, groups: tuple[MonitorGroup, ...]) -> MonitorView:
    return MonitorView(
        name="chat", from_ns=AT - int(seconds) * NS, to_ns=AT, groups=groups,
        paid=(PaidServer(server="a:8000", pool="chat", paid_s=seconds, usd_per_hour=Decimal(6), price="box, by hand, 2026-11-01"),),
        capacities=(CapacityOfRun(model="tiny", rps=10.0, output_tps=None, run_ids=("r1",), used=True),),
        advice=(), slo={"ttft_s": 2.0}, warnings=(),
    )  # fmt: skip


def state(**given: object) -> MonitorState:
    """Two servers of one pool and model, one of them silent; `given` replaces fields."""
    views = {
        window: view(
            SECONDS[window],
            (
                group("all", "all", SECONDS[window]), group("pool", "chat", SECONDS[window]),
                group("model", "tiny", SECONDS[window]), group("server", "a:8000", SECONDS[window], 0.75),
                group("server", "b:8000", SECONDS[window], 0.25), group("tenant", "acme", SECONDS[window], 0.5),
            ),
        )
        for window in WINDOWS
    }  # fmt: skip
    servers = (
        ServerWatch(server="a:8000", pool="chat", engine="vllm", up=True, scrapes=40, missed=0, read_utc_ns=AT - NS),
        ServerWatch(server="b:8000", pool="chat", engine="vllm", up=False, scrapes=40, missed=3, read_utc_ns=AT - 43 * NS, says="connection refused"),
    )  # fmt: skip
    prices = (PriceOfPool(pool="chat", price="box, by hand", usd_per_hour=Decimal(6), as_of="2026-11-01", planned_share=0.7),)  # fmt: skip
    fields: dict[str, object] = {
        "name": "chat", "at_utc_ns": AT, "views": views, "servers": servers, "prices": prices, "advice": (advice(),),
        "usd_per_million_budget": Decimal(10), "usd_per_month_budget": Decimal(5000),
    }  # fmt: skip
    return MonitorState(**(fields | given))  # type: ignore[arg-type]
