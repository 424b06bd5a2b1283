"""Boxes of a Ray cluster: each node an actor that holds the whole node, so that nothing else of the cluster runs beside a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Self

from harness.base.errors import TargetError
from harness.config.fleet import FleetSpec
from harness.measure.campaign.fleet.boxes import Box, BoxLostError, Line
from harness.measure.campaign.fleet.process import BoxProcess
from harness.measure.nodes.ray_nodes import cluster

_ANSWER_S = 60.0  # a box that is silent for so long is lost; Ray finds out sooner, as a rule
_ASK_AGAIN_S = 5.0
_NO_LABELS = ("CPU", "GPU", "memory", "object_store_memory")


class RayBoxes:
    """The nodes of a cluster that are alive. A context manager."""

    def __init__(self, fleet: FleetSpec, say: Callable[[str], None]) -> None:
        self._fleet, self._say, self._seen = fleet, say, set[str]()
        self._open_things = ExitStack()

    def __enter__(self) -> Self:
        """Connect. Raises ConfigError: no Ray here, no cluster there."""
        self._ray = self._open_things.enter_context(cluster(self._fleet.on, self._say))
        return self

    def __exit__(self, *_: object) -> None:
        self._open_things.close()

    def look(self) -> Sequence[Box]:
        """Nodes that are new, at most as many as are wanted. Raises TargetError."""
        try:
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
        except Exception as error:
            raise TargetError("the Ray cluster does not answer", f"{self._fleet.on}: {type(error).__name__}", "what was measured is stored: --resume") from None  # fmt: skip
        names = [_name(node) for node in nodes]
        found = []
        for node, name in zip(nodes, names, strict=True):
            if node["NodeID"] in self._seen or (self._fleet.boxes is not None and len(self._seen) >= self._fleet.boxes):
                continue
            self._seen.add(node["NodeID"])
            own = name if names.count(name) == 1 else f"{name}-{node['NodeID'][:6]}"
            has = {key: amount for key, amount in node["Resources"].items() if not key.startswith("node:")}
            facts = {"name": own, "node_id": node["NodeID"], "resources": {k: v for k, v in has.items() if k not in _NO_LABELS[2:]}}  # fmt: skip
            found.append(Box(own, has, facts, partial(self._open, node, has)))
        return found

    def _open(self, node: Mapping[str, Any], has: Mapping[str, float], stopped: Callable[[], bool]) -> Line | None:
        """The node's actor, once nothing else holds what the node has. Raises BoxLostError."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        labels = {key: amount for key, amount in has.items() if key not in _NO_LABELS}
        actor = (
            self._ray.remote(BoxProcess)
            .options(
                num_cpus=has.get("CPU", 0), num_gpus=has.get("GPU", 0), resources=labels, max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote()
        )  # fmt: skip
        line, said = _RayLine(self._ray, actor), False
        while not stopped():
            try:
                self._ray.get(actor.facts.remote(), timeout=_ASK_AGAIN_S)
                return line
            except self._ray.exceptions.GetTimeoutError:
                if not said:
                    self._say(f"{_name(node)}: something else of the cluster uses it; it joins when it is free")
                    said = True
            except Exception as error:
                line.close()
                raise _lost(error) from None
        line.close()
        return None


class _RayLine:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def call(self, method: str, *words: Any) -> Any:
        """Raises BoxLostError."""
        try:
            return self._ray.get(getattr(self._actor, method).remote(*words), timeout=_ANSWER_S)
        except Exception as error:
            raise _lost(error) from None

    def close(self) -> None:
        with suppress(Exception):
            self._ray.get(self._actor.close.remote(), timeout=30)
        with suppress(Exception):
            self._ray.kill(self._actor)


def _lost(error: Exception) -> BoxLostError:
    """The last line of what Ray says has the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return BoxLostError(f"it is lost ({type(error).__name__})", lines[-1][:300] if lines else "")


def _name(node: Mapping[str, Any]) -> str:
    """As `ray start --node-name` has it, else the node's address."""
    return str(node.get("NodeName") or node["NodeManagerAddress"])
