"""The nodes that send a run's measured phase, as its experiment asks for them; None where this machine does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness.base.clock import NS
from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec
from harness.measure.nodes.crew import Crew, ask_all
from harness.measure.nodes.muster import DESCRIBE_S, Nodes, mustered
from harness.measure.nodes.ray_nodes import RayCrew, cluster, hosts_of, places
from harness.records import Endpoint, Plan

_ERROR_S = 0.001


@contextmanager
def senders(spec: ExperimentSpec, endpoint: Endpoint, plan: Plan, say: Callable[[str], None]) -> Iterator[Nodes | None]:
    """Connected, chosen, described, compared, their clocks asked; ended with the context. Raises ConfigError, TargetError: nothing was sent."""
    asked = spec.load_generators
    if asked.is_local:
        yield None
        return
    with cluster(asked.on, say) as ray:
        avoid = frozenset[str]() if asked.beside_server else hosts_of(endpoint.base_url)

        def crew_of(workers: int) -> RayCrew:
            chosen = places(ray, count=asked.nodes, cores=workers + 1, avoid=avoid)
            return RayCrew(ray, chosen, workers + 1)

        if asked.workers_per_node == "auto":
            crew, workers = calibrated(crew_of, plan, say)
        else:
            workers = asked.workers_per_node
            crew = crew_of(workers)
        with mustered(crew, workers) as nodes:
            say(f"{nodes.count} nodes ready: {', '.join(nodes.crew.names)}")
            yield nodes


def calibrated(crew_of: Callable[[int], Crew], plan: Plan, say: Callable[[str], None]) -> tuple[Crew, int]:
    """A crew with as many workers a node as its nodes' own calibrations ask for. Raises ConfigError where they hold less than the load."""
    crew = crew_of(1)
    every = range(len(crew.names))
    try:
        came = ask_all(crew, dict.fromkeys(every, ("calibrations",)), DESCRIBE_S)
        # who does not answer is refused when it is to describe itself
        limits = {crew.names[node]: came[node] if isinstance(came.get(node), dict) else {} for node in every}
        workers, why = workers_for(plan, limits)
    except BaseException:
        for node in every:
            crew.end(node)
        raise
    say(f"{workers} worker(s) a node: {why}")
    if workers == 1:
        return crew, workers
    for node in every:
        crew.end(node)
    return crew_of(workers), workers


def workers_for(plan: Plan, limits: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> tuple[int, str]:
    """(workers a node, why): the fewest with which each node's own calibration held its share of the plan's tokens and requests a second at an
    error below 1 ms. `limits`: node -> workers -> calibration. 1 in a closed loop, whose rate nobody knows, and where none is stored. Raises
    ConfigError where those that are stored hold less."""
    last_ns = max((request.scheduled_ns or 0 for request in plan.requests), default=0)
    if plan.load.is_closed or not last_ns:
        return 1, "the offered rate is not known"
    seconds = last_ns / NS * len(limits)
    tokens = sum(request.target_output_tokens for request in plan.requests) / seconds
    requests = len(plan.requests) / seconds
    share = f"{tokens:,.0f} tokens/s and {requests:,.0f} requests/s"
    without = [name for name, stored in limits.items() if not stored]
    needed = 1
    for name, stored in limits.items():
        enough = [workers for workers, limit in sorted(stored.items()) if _holds(limit, tokens, requests)]
        if stored and not enough:
            advice = f"take more nodes, calibrate it with more workers (`harness calibrate --workers {max(stored) + 1}` there), or give workers_per_node"
            raise ConfigError(f"node {name} is calibrated for less than its share", share, advice)
        needed = max([needed, *enough[:1]])
    if without:
        return needed, f"{', '.join(without)} has no calibration (`harness calibrate` there)"
    return needed, f"the nodes' calibrations hold {share} each"


def _holds(limit: Mapping[str, Any], tokens: float, requests: float) -> bool:
    """A limit that the calibration did not come to counts as held: what was really late makes the run INVALID."""
    held = next((ceiling for ceiling in limit["ceilings"] if ceiling["error_s"] == _ERROR_S), None)
    if held is None:
        return False
    pairs = ((tokens, "tokens_per_s", "tokens_bounded"), (requests, "requests_per_s", "requests_bounded"))
    return all(not held[bounded] or (held[name] or 0) >= asked for asked, name, bounded in pairs)


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
