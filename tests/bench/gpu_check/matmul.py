"""A load that computes and nothing else: bf16 matrix products on one board, by torch of the vLLM installation.

`python -m tests.bench.gpu_check.matmul --device cuda --size 8192` says what it computes on as JSON, then obeys lines of its standard
input: `go` and `stop`. `stop` answers with what was computed since `go`. It ends with its input.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.base import clock
from tests.bench.gpu_check.step import Place, StepError, last_lines, started

_AT_ONCE = 8  # products between two looks at the input: some tens of ms on an H100
_SIZES = {"cuda": 8192, "cpu": 256}


class Matmul:
    """The parent's end. `pid`, `uuid`: of the process, and of the board where torch tells it."""

    def __init__(self, process: Any, first: dict[str, Any]) -> None:
        self._process = process
        self.pid, self.device, self.uuid = first["pid"], first["device"], first["uuid"]

    def go(self) -> None:
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def stop(self) -> dict[str, float]:
        """`seconds` since go, and `tflops` per second."""
        self._process.stdin.write("stop\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise StepError("the matmul ended by itself: see matmul.log")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def matmul(place: Place, name: str, before: tuple[str, ...] = ()) -> Iterator[Matmul]:
    """A matmul that waits for `go`, its context open; `before`: words before its command. Raises StepError where torch cannot."""
    log = place.folder(name) / "matmul.log"
    words = [*before, sys.executable, "-m", "tests.bench.gpu_check.matmul", "--device", place.device]
    with (
        log.open("w", encoding="utf-8") as errors,
        started([*words, "--size", str(_SIZES[place.device])], stdin=-1, stdout=-1, stderr=errors) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        if not line:
            raise StepError(f"no matmul: {last_lines(log)}")
        try:
            yield Matmul(process, json.loads(line))
        finally:
            process.stdin.close()
            process.wait()


def _line() -> str:
    """One line of the input and nothing more, so that select knows of the next one."""
    found = bytearray()
    while (byte := os.read(0, 1)) and byte != b"\n":
        found += byte
    return found.decode()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192)
    given = parser.parse_args()
    import torch

    a = torch.randn(given.size, given.size, device=given.device, dtype=torch.bfloat16)
    out = a @ a  # the context, the library and its kernels are there before anything is timed
    on_gpu = given.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else lambda: clock.sleep(0.02)  # nothing is heated there
    wait()
    known = torch.cuda.get_device_properties(0) if on_gpu else None
    uuid = getattr(known, "uuid", None)
    first = {"pid": os.getpid(), "device": known.name if known else "cpu", "uuid": None if uuid is None else str(uuid)}
    print(json.dumps(first), flush=True)
    going, products, begun_ns = False, 0, 0
    while True:
        if not going or select.select([0], [], [], 0)[0]:
            word = _line()
            if not word:
                return
            if word == "stop":
                seconds = (clock.monotonic_ns() - begun_ns) / clock.NS
                print(
                    json.dumps({"seconds": seconds, "tflops": 2e-12 * given.size**3 * products / seconds}), flush=True
                )
            going, products, begun_ns = word == "go", 0, clock.monotonic_ns()
            continue
        for _ in range(_AT_ONCE):
            torch.matmul(a, a, out=out)
        wait()
        products += _AT_ONCE


if __name__ == "__main__":
    _main()
