"""Boxes of this machine: each a process of its own, as on a box, with nothing in between that carries its calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from harness.measure.campaign.fleet.boxes import Box, BoxLostError
from harness.measure.campaign.fleet.process import BoxProcess


class LocalLine:
    """`on_news` is called before the box is listened to."""

    def __init__(self, process: BoxProcess, on_news: Callable[[LocalLine], None]) -> None:
        self.process, self.on_news, self.lost = process, on_news, False
        self.facts: dict | None = None

    def call(self, method: str, *words):
        if method == "news":
            self.on_news(self)
        if self.lost:
            raise BoxLostError("it is lost", "unplugged")
        return self.facts if method == "facts" and self.facts else getattr(self.process, method)(*words)

    def unplug(self) -> None:
        """The machine is gone, with all that it ran."""
        os.killpg(self.process._process.pid, signal.SIGKILL)
        self.lost = True

    def close(self) -> None:
        self.process.close()


class LocalBoxes:
    """`named`: name -> its resources. Each has locks, a ledger and a folder of its own."""

    def __init__(self, folder: Path, named: Mapping[str, Mapping[str, float]], on_news=None) -> None:
        self._folder, self._new = folder, dict(named)
        self.on_news = on_news or (lambda name, line: None)
        self.facts: dict[str, dict] = {}  # of boxes that are not what they should be

    def __call__(self, spec, say) -> LocalBoxes:
        return self

    def look(self) -> list[Box]:
        found = [Box(name, has, {"name": name}, self._opener(name)) for name, has in self._new.items()]
        self._new = {}
        return found

    def _opener(self, name: str):
        (folder := self._folder / name).mkdir(parents=True, exist_ok=True)
        own = {"HARNESS_LOCK_DIR": str(folder / "locks"), "HARNESS_LEDGER_DIR": str(folder / "ledger")}
        environment = os.environ | own | {"TMPDIR": str(folder)}

        def opened(_stopped: Callable[[], bool]) -> LocalLine:
            line = LocalLine(BoxProcess(environment), lambda line: self.on_news(name, line))
            line.facts = self.facts.get(name)
            return line

        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
