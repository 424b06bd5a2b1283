"""Nodes of a Ray cluster as a crew: one actor a node, its cores reserved. The only module of the load that imports Ray."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from harness.base import clock, redaction
from harness.base.errors import ConfigError
from harness.base.loopback import is_loopback
from harness.measure.nodes.agent import Agent
from harness.measure.nodes.crew import NodeGone, NodeTrouble, NodeUnheard

INSTALL = "pip install 'vllm-cost-harness[ray]'"
# a driver whose head is gone ends itself after so long, with all that it had not stored: the run is to end as a run
_HEAD_GONE_S = "86400"
CONNECT_S = 10.0
FREED_S, FREED_POLL_S = 20.0, 0.2  # cores of an actor that was ended are free again a moment later
# times: the head forks a process for each client, and the fork of a crowded head may hang until it is given up after 30 s
ASKED = 3
_NO_PROCESS = "Initialization failure from server"
_MISSING = re.compile(r"No module named '([\w.]+)'")


@contextmanager
def cluster(on: str, say: Callable[[str], None]) -> Iterator[Any]:
    """Connected to the cluster: the module ray. Raises ConfigError: no Ray here, nobody there, another version there."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("work on many nodes needs Ray", error, INSTALL) from None
    if not _is_guarded(on):
        say(
            "note: whoever reaches this Ray cluster runs code on its nodes: start it with RAY_AUTH_MODE=token, or keep it to a network of its own"
        )
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _HEAD_GONE_S)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = "auto" if on == "ray" and "RAY_ADDRESS" not in os.environ else None if on == "ray" else on
    joined = not ray.is_initialized()  # a fleet's campaign may have connected already
    if joined:
        _refuse_silence(on, ray.__version__)
        _connect(ray, on, address, say)
        with suppress(AttributeError):  # Ray prints a node's death on stdout, where our JSON is, whatever it is asked
            ray._private.worker._worker_logs_enabled = False  # noqa: SLF001
    try:
        yield ray
    finally:
        if joined:
            with suppress(Exception):
                ray.shutdown()


def _connect(ray: Any, on: str, address: str | None, say: Callable[[str], None]) -> None:
    for attempt in range(1, ASKED + 1):
        try:
            ray.init(
                address=address,
                namespace=f"harness-{secrets.token_hex(4)}",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=False,
            )
            return
        except Exception as error:
            if _NO_PROCESS not in str(error) or attempt == ASKED:
                raise _not_connected(on, error, ray.__version__) from None
            say(f"the head started no process for this client, attempt {attempt} of {ASKED}: {_last_line(error)}")


def _last_line(error: Exception) -> str:
    """Of an error that has the head's traceback in it, what went wrong there."""
    return redaction.text(str(error).strip().rpartition("\n")[2])[:300]


def _refuse_silence(on: str, version: str) -> None:
    """Raises ConfigError where nothing listens: Ray itself asks again for as long as a lost head is waited for."""
    address = urlsplit(f"//{(os.environ.get('RAY_ADDRESS', '') if on == 'ray' else on).removeprefix('ray://')}")
    if address.port is None:
        return
    try:
        socket.create_connection((address.hostname, address.port), timeout=CONNECT_S).close()
    except OSError as error:
        raise _not_connected(on, error, version) from None


def _is_guarded(on: str) -> bool:
    address = os.environ.get("RAY_ADDRESS", "") if on == "ray" else on
    guarded = os.environ.get("RAY_AUTH_MODE") == "token"
    return guarded or is_loopback(address if "://" in address else f"ray://{address}")


def _not_connected(on: str, error: Exception, version: str) -> ConfigError:
    whole = redaction.text(" ".join(str(error).split())) or type(error).__name__
    words = whole[:300]
    where = on if on != "ray" else os.environ.get("RAY_ADDRESS", "the cluster of this machine")
    if "version" in words.lower() and "mismatch" in words.lower():
        advice = f"this machine has Ray {version}: install the cluster's version here, Python's too"
        return ConfigError(f"the Ray cluster at {where} has another version", words, advice)
    if _NO_PROCESS in whole:
        advice = (
            f"it was asked {ASKED} times and may be crowded: try later; or do without it: make this machine a node (`ray start --address HEAD:6379 --num-cpus 0`) "
            "and give --on HEAD:6379"
        )
        return ConfigError(f"the head at {where} started no process for this client", _last_line(error), advice)
    advice = "start it (`ray start --head`), run this on one of its nodes, or give --on ray://HEAD:10001"
    return ConfigError(f"no Ray cluster at {where}", words, advice)


@dataclass(frozen=True, slots=True)
class Place:
    """A node of the cluster that may send."""

    node_id: str
    name: str
    address: str


def places(ray: Any, *, count: int, cores: int, avoid: frozenset[str]) -> list[Place]:
    """`count` nodes that live and have `cores` free, this machine's last; `avoid`: addresses and names that are not taken. Those of a run that
    has just ended are waited for. Raises ConfigError with each node's reason where there are not so many."""
    end_ns = clock.monotonic_ns() + int(FREED_S * clock.NS)
    while True:
        usable, reasons = _usable(ray, cores, avoid, _free_cores(ray))
        if len(usable) >= count:
            return usable[:count]
        if clock.monotonic_ns() > end_ns or len(_usable(ray, cores, avoid, {})[0]) < count:
            words = f"{len(usable)} can be used" + (f": {'; '.join(reasons)}" if reasons else "")
            advice = "lower nodes or workers_per_node (a node needs a core a worker and one more), or add nodes to the cluster"
            raise ConfigError(f"{count} nodes are to send", words, advice)
        clock.sleep(FREED_POLL_S)


def _usable(ray: Any, cores: int, avoid: frozenset[str], free: Mapping[str, float]) -> tuple[list[Place], list[str]]:
    """(nodes that may send, why others may not); `free`: cores by node id, all of a node's where it is not there."""
    own = ray.util.get_node_ip_address()
    usable: list[Place] = []
    reasons: list[str] = []
    for node in sorted(ray.nodes(), key=lambda n: (n["NodeManagerAddress"] == own, n["NodeManagerAddress"])):
        if not node["Alive"]:
            continue
        address, host = node["NodeManagerAddress"], node.get("NodeManagerHostname", "")
        has = free.get(node["NodeID"], node["Resources"].get("CPU", 0.0))
        if address in avoid or host in avoid:
            reasons.append(f"{address} is the target's own (beside_server: true takes it)")
        elif has < cores:
            reasons.append(f"{address} has {has:g} cores free, {cores} are needed")
        else:
            usable.append(Place(node["NodeID"], address, address))
    return usable, reasons


def _free_cores(ray: Any) -> Mapping[str, float]:
    """Node id -> cores that nobody has reserved; empty where this client cannot know."""
    with suppress(Exception):
        of_nodes = ray._private.state.available_resources_per_node()  # noqa: SLF001 - there is no public word for it
        return {node: resources.get("CPU", 0.0) for node, resources in of_nodes.items()}
    return {}


def hosts_of(base_url: str) -> frozenset[str]:
    """The target's host, by name and by address."""
    host = urlsplit(base_url).hostname or ""
    with suppress(OSError):
        return frozenset({host, *(str(found[4][0]) for found in socket.getaddrinfo(host, None))})
    return frozenset({host})


class RayCrew:
    """An actor on each place. A call goes from here to its actor's process; what it answers comes the same way."""

    def __init__(self, ray: Any, chosen: Sequence[Place], cores: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self.names: Sequence[str] = [place.name for place in chosen]
        self.addresses: Sequence[str] = [place.address for place in chosen]
        remote = ray.remote(Agent)
        self._actors = [
            remote.options(
                num_cpus=cores,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node_id, soft=False),
            ).remote(ends_process=True)
            for place in chosen
        ]
        self._calls: dict[Any, int] = {}  # reference -> node
        self.ended: set[int] = set()

    def ask(self, node: int, method: str, *args: Any) -> None:
        """As Crew.ask. Arguments are not kept anywhere: a call's go from process to process, those of an actor's making would stay with the head."""
        self._calls[getattr(self._actors[node], method).remote(*args)] = node

    def answers(self, within_s: float) -> list[tuple[int, Any]]:
        if not self._calls:
            return []
        ready, rest = self._ray.wait(list(self._calls), num_returns=1, timeout=within_s, fetch_local=True)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=True)[0]
        return [(self._calls.pop(reference), self._answer(reference)) for reference in ready]

    def _answer(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=10)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None) or error
            return NodeTrouble(_words(cause))
        except errors.ActorUnavailableError as error:
            return NodeUnheard(_words(error))
        except errors.RayActorError as error:
            found = _MISSING.search(str(error))
            return NodeGone(_words(error), found[1] if found else None)
        except Exception as error:
            return NodeGone(_words(error))

    def end(self, node: int) -> None:
        if node not in self.ended:
            self.ended.add(node)
            with suppress(Exception):
                self._ray.kill(self._actors[node], no_restart=True)


def _words(error: BaseException) -> str:
    """The lines of an error that say something, as one, without secrets."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.lstrip().startswith("File ")]
    return redaction.text(f"{type(error).__name__}: {'; '.join(lines)}")[:500]
