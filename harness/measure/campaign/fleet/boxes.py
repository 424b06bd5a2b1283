"""What a campaign needs of its boxes, whatever carries the calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from harness import __version__
from harness.base.errors import HarnessError

NEWS_S = 1.0  # that a box is listened to before it is asked again
CHUNK_BYTES = 4 << 20  # of a run on its way


class BoxLostError(HarnessError):
    """A box that does not answer, ended its part by itself, or may not take part; never leaves the campaign over a fleet."""


class Line(Protocol):
    """Calls the methods of a BoxProcess, on a machine of its own."""

    def call(self, method: str, *words: Any) -> Any:
        """Raises BoxLostError."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Box:
    """A machine for cells. `open` gives its line, and waits until whatever else uses the machine lets it go, unless it is `stopped`.
    `facts`: for the environment of its runs, `name` among them."""

    name: str
    resources: Mapping[str, float]
    facts: Mapping[str, Any]
    open: Callable[[Callable[[], bool]], Line | None]
    line: Line | None = None

    def _call(self, method: str, *words: Any) -> Any:
        assert self.line is not None
        return self.line.call(method, *words)

    def joins(self, stopped: Callable[[], bool]) -> bool:
        """Whether it is ours now; False where the campaign was stopped meanwhile. Raises BoxLostError, also for another harness."""
        self.line = self.open(stopped)
        if self.line is None:
            return False
        theirs = self._call("facts")["harness_version"]
        if theirs != __version__:
            raise BoxLostError("another harness", f"{theirs}, here {__version__}", "install the same version there")
        return True

    def run(self, work: str, asked: Callable[[], int]) -> Iterator[tuple[str, Any]]:
        """Start a part, then what is told of it, kind and value; ("", None) where there was nothing for a while. `asked`: how often the
        user has asked to stop. Raises BoxLostError where the part ended by itself."""
        self._call("begin", work)
        told, trouble = 0, ""
        while True:
            while told < asked():
                self._call("stop")
                told += 1
            lines: Sequence[str] = self._call("news", NEWS_S)
            for kind, value in (pair for line in lines for pair in json.loads(line).items()):
                if kind == "end":
                    if value["code"] != 0 and not told:
                        raise BoxLostError(
                            trouble or f"its part ended with code {value['code']}", _last(value["words"])
                        )
                    return
                trouble = value if kind == "trouble" else trouble
                yield kind, value
            yield "", None

    def fetch(self, path: str, size: int) -> Iterator[bytes]:
        """The bytes of a packed run. Raises BoxLostError."""
        for offset in range(0, size, CHUNK_BYTES):
            yield self._call("read", path, offset, CHUNK_BYTES)

    def fetched(self) -> None:
        self._call("fetched")

    def close(self) -> None:
        if self.line is not None:
            self.line.close()


def _last(words: str) -> str:
    return words.splitlines()[-1] if words else ""


class Boxes(Protocol):
    """Where boxes are found. A context manager."""

    def look(self) -> Sequence[Box]:
        """Those that were not there when it last looked. Raises TargetError."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
