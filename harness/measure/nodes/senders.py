"""The nodes that send a run's measured phase, as its experiment asks for them; None where this machine does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness.base.clock import NS
from harness.config.experiment import ExperimentSpec
from harness.measure.calibrate import calibration_limit
from harness.measure.nodes.muster import Nodes, mustered
from harness.measure.nodes.ray_nodes import RayCrew, cluster, hosts_of, places
from harness.records import Endpoint, Plan

MOST_WORKERS = 16  # of a node, where as many as are needed are asked for
_ERROR_S = 0.001


@contextmanager
def senders(spec: ExperimentSpec, endpoint: Endpoint, plan: Plan, say: Callable[[str], None]) -> Iterator[Nodes | None]:
    """Connected, chosen, described, compared, their clocks asked; ended with the context. Raises ConfigError, TargetError: nothing was sent."""
    asked = spec.load_generators
    if asked.is_local:
        yield None
        return
    workers = asked.workers_per_node
    if workers == "auto":
        workers, why = workers_for(plan, asked.nodes, calibration_limit)
        say(f"{workers} worker(s) a node: {why}")
    with cluster(asked.on, say) as ray:
        avoid = frozenset[str]() if asked.beside_server else hosts_of(endpoint.base_url)
        chosen = places(ray, count=asked.nodes, cores=workers + 1, avoid=avoid)
        with mustered(RayCrew(ray, chosen, workers + 1), workers) as nodes:
            say(f"{nodes.count} nodes ready: {', '.join(nodes.crew.names)}")
            yield nodes


def workers_for(plan: Plan, nodes: int, calibrated: Callable[[int], Mapping[str, Any] | None]) -> tuple[int, str]:
    """(workers a node, why): the fewest whose calibration on this machine held the node's share of the plan's tokens and requests a second at
    an error below 1 ms. 1 in a closed loop, whose rate nobody knows, and without a calibration."""
    last_ns = max((request.scheduled_ns or 0 for request in plan.requests), default=0)
    if plan.load.is_closed or not last_ns:
        return 1, "the offered rate is not known"
    seconds = last_ns / NS
    tokens = sum(request.target_output_tokens for request in plan.requests) / seconds / nodes
    requests = len(plan.requests) / seconds / nodes
    best = 0
    for workers in range(1, MOST_WORKERS + 1):
        limit = calibrated(workers)
        if limit is None:
            continue
        best = workers
        held = next((ceiling for ceiling in limit["ceilings"] if ceiling["error_s"] == _ERROR_S), None)
        if held and (held["tokens_per_s"] or 0) >= tokens and (held["requests_per_s"] or 0) >= requests:
            return workers, f"its calibration holds {tokens:,.0f} tokens/s and {requests:,.0f} requests/s"
    return max(
        1, best
    ), "no calibration is stored" if not best else "no calibration that is stored holds the offered rate"


def together(limits: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The nodes' calibrations as one limit, for the plan is dealt out evenly: the least of them times their number. None unless all have one."""
    every = [limit for limit in limits if limit is not None]
    if not every or len(every) < len(limits):
        return None
    ceilings = []
    for ceiling in every[0]["ceilings"]:
        alike = [one for limit in every for one in limit["ceilings"] if one["error_s"] == ceiling["error_s"]]
        whole: dict[str, Any] = {"error_s": ceiling["error_s"]}
        for name, bounded in (("tokens_per_s", "tokens_bounded"), ("requests_per_s", "requests_bounded")):
            least = min(alike, key=lambda one: one[name] or 0.0)
            whole |= {name: (least[name] or 0.0) * len(every), bounded: least[bounded]}
        ceilings.append(whole)
    first = every[0]
    return {"made_utc": first["made_utc"], "workers": sum(limit["workers"] for limit in every), "load1": None, "quick": any(limit["quick"] for limit in every), "ceilings": ceilings}  # fmt: skip
