"""The golden server as a process: built from the C file beside this one, run beside the client, its log read back.

Python could not send 160,000 tokens a second, and a server that is late itself cannot tell how late its client was.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from harness.base.errors import HarnessError
from harness.measure.drive import cc

SOURCE = Path(__file__).with_name("golden_server.c")
MODEL = "golden"
_ID_WORDS = 8  # int64 words of a request's name in the log
_PRIORITY = 10  # of the real-time class, where the system lets us: below it the server's lateness is in every figure


def build(cache: Path) -> Path:
    """The server's binary in `cache`, compiled unless this source was before. Raises ConfigError, HarnessError."""
    return cc.build(SOURCE, cache)


@dataclass(frozen=True, slots=True)
class Served:
    """What the server did for one request, on CLOCK_MONOTONIC: when it came, when each token went."""

    received_ns: int
    sent_ns: npt.NDArray[np.int64]


class GoldenProcess:
    """A running golden server: the first token `ttft_s` after the request, then one per `itl_s`, on absolute deadlines.

    With `service_s` a request first takes its turn with a single server, so long each (M/D/1 under Poisson arrivals).
    A context manager; `stop` ends it and returns its log, request id -> Served. It takes the first core it may use,
    with real-time priority where the system allows that. `host`: the IPv4 address it listens on; `through`: words before its own, as of
    `ip netns exec NAME`, which become it.
    """

    def __init__(
        self,
        binary: Path,
        ttft_s: float,
        itl_s: float,
        folder: Path,
        service_s: float = 0.0,
        *,
        host: str = "127.0.0.1",
        through: Sequence[str] = (),
    ) -> None:
        self.ttft_s, self.itl_s, self.host = ttft_s, itl_s, host
        self._log = folder / "golden.log"
        times = [str(round(seconds * 1e6)) for seconds in (ttft_s, itl_s, service_s)]
        words = [*through, str(binary), *times[:2], str(self._log), times[2], host]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=_apart)  # noqa: PLW1509 - starts no thread
        assert self._process.stdout is not None
        port = self._process.stdout.readline()
        if not port:
            raise HarnessError("the golden server did not start", f"exit status {self._process.wait()}", "")
        self.port = int(port)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> dict[str, Served]:
        self._process.terminate()
        self._process.wait()
        return read_log(self._log)

    def lateness_s(self, served: Served) -> npt.NDArray[np.float64]:
        """How far behind its own schedule the server sent each token: what of a bad figure is not the client's."""
        due = served.received_ns + round(self.ttft_s * 1e9) + np.arange(len(served.sent_ns)) * round(self.itl_s * 1e9)
        return np.asarray((served.sent_ns - due) / 1e9, np.float64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def keep_off(pids: Iterable[int]) -> None:
    """Keep processes off the golden server's core: the kernel wakes a reader on the core that sent to it, where a
    real-time server then stops it at every token. Does nothing with one core, or where affinity is not to be had."""
    with contextlib.suppress(OSError, AttributeError):
        cores = os.sched_getaffinity(0)
        if len(cores) > 1:
            for pid in pids:
                os.sched_setaffinity(pid, cores - {min(cores)})


def _apart() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))


def read_log(path: Path) -> dict[str, Served]:
    """The log as golden_server.c describes it; empty if the server did not come to write one."""
    words = np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)
    served, at = {}, 0
    while at < len(words):
        name = words[at : at + _ID_WORDS].tobytes().rstrip(b"\0").decode()
        received, count = int(words[at + _ID_WORDS]), int(words[at + _ID_WORDS + 1])
        at += _ID_WORDS + 2
        served[name] = Served(received, words[at : at + count])
        at += count
    return served
