"""A crew of agents in processes of this machine, called through pipes: what a cluster does, without one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

import psutil

from harness.measure.nodes.agent import Agent
from harness.measure.nodes.crew import NodeGone, NodeTrouble

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["harness.measure.nodes.agent", "pandas"])


def _serve(pipe: Connection, folder: str, state: str) -> None:
    tempfile.tempdir = folder
    os.environ["XDG_STATE_HOME"] = state
    agent = Agent()
    while True:
        try:
            method, args = pipe.recv()
        except (EOFError, ConnectionError):
            agent.close(stored=False)
            return
        try:
            pipe.send(getattr(agent, method)(*args))
        except Exception as error:
            pipe.send(NodeTrouble(f"{type(error).__name__}: {error}"))


class LocalCrew:
    """`count` agents. `deaf`: nodes whose answers are kept back from now on. `lingers`: an agent goes with the crew, not when it is ended.
    `state`: the nodes' state directory; otherwise it goes with the crew."""

    def __init__(self, count: int, *, lingers: bool = False, state: Path | None = None) -> None:
        self._lingers, self.ended = lingers, set[int]()
        self.names: Sequence[str] = [f"local-{k}" for k in range(count)]
        self.addresses: Sequence[str] = ["127.0.0.1"] * count
        self.deaf: set[int] = set()
        self.calls: list[tuple[int, str]] = []
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # of agents that are killed, too
        pipes = [_CONTEXT.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self.processes = [
            _CONTEXT.Process(target=_serve, args=(theirs, self._folder.name, str(state or self._folder.name)))
            for _, theirs in pipes
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()
        self.started: dict[int, list[psutil.Process]] = {}

    def ask(self, node: int, method: str, *args: Any) -> None:
        self.calls.append((node, method))
        with contextlib.suppress(OSError):  # its end is met when it is listened to
            self._pipes[node].send((method, args))

    def answers(self, within_s: float) -> list[tuple[int, Any]]:
        listening = [pipe for k, pipe in enumerate(self._pipes) if k not in self.deaf and not pipe.closed]
        came = []
        for pipe in wait(listening, within_s):
            node = self._pipes.index(pipe)
            try:
                came.append((node, pipe.recv()))
            except (EOFError, OSError):
                pipe.close()
                came.append((node, NodeGone("its process ended")))
        return came

    def workers(self, node: int) -> list[psutil.Process]:
        """The load generator's processes of a node."""
        return psutil.Process(self.processes[node].pid).children()

    def kill(self, node: int) -> None:
        self.started[node] = self.workers(node)
        os.kill(self.processes[node].pid, signal.SIGKILL)

    def end(self, node: int) -> None:
        self.ended.add(node)
        if not self._lingers:
            self._close(node)

    def _close(self, node: int) -> None:
        if not self._pipes[node].closed:
            self._pipes[node].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node, process in enumerate(self.processes):
            self._close(node)
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()
