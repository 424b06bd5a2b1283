"""Break-even over a steady rate: a fixed fleet for a flat demand."""

from __future__ import annotations

from harness.planner.breakeven import BreakEven, break_even_over_demand
from harness.planner.demand import flat
from harness.planner.fleet import FleetSpec


def break_even(
    capacity_rps,
    replica_usd_per_hour,
    hosted_usd_per_request,
    *,
    spares=0,
    fixed_usd_per_hour=0,
    minimum_usd_per_month=0,
) -> BreakEven:
    spec = FleetSpec(
        capacity_rps=capacity_rps, replica_usd_per_hour=replica_usd_per_hour, headroom=1, scaling="fixed", spares=spares,
        other_usd_per_hour=fixed_usd_per_hour,
    )  # fmt: skip
    return break_even_over_demand(flat(1), spec, hosted_usd_per_request, minimum_usd_per_month=minimum_usd_per_month)
