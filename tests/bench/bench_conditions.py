"""The tests that touch time, again and again under the conditions that machines come in: which of them know how fast one is.

`python -m tests.bench.bench_conditions [--runs 10] [--conditions quiet,one-core] [--minutes 60] [--whole] [--record FILE] [-- WORDS FOR
PYTEST]`. Without words all tests marked `timing` run, with --whole all tests, as `make test` runs them. Conditions take turns, so that a run
that is ended early (Ctrl-C, --minutes) has all of them in its table; --record adds a JSON line a run, and the table then shows all of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psutil

from harness.measure.drive import cc

ROOT = Path(__file__).resolve().parents[2]
COMMIT = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.strip()
HALT_S, HALT_EVERY_S = 1.0, 1.5
DELAYS = {"DELAYS_ONE_OF": "100", "DELAYS_MOST_US": "30000"}
BURN = [sys.executable, "-c", "while True: pass"]


@dataclass
class Condition:
    """`before`: words before pytest's. `burns`: a process that keeps a core busy runs beside it. `halts`: all its processes stand still
    together now and then, as on a virtual machine that is not scheduled. `delays`: their system calls wait now and then, each for itself (delays.c).
    `env`: variables."""

    before: tuple[str, ...] = ()
    burns: bool = False
    halts: bool = False
    delays: bool = False
    env: dict[str, str] = field(default_factory=dict)


def conditions() -> dict[str, Condition]:
    return {
        "quiet": Condition(),
        "one-core": Condition(("taskset", "-c", str(min(os.sched_getaffinity(0))))),
        "busy-core": Condition(burns=True),
        "nice": Condition(("nice", "-n", "19")),
        "halts": Condition(halts=True),
        "delays": Condition(delays=True),
        "slow-server": Condition(env={"HARNESS_TEST_MODEL": "num_hidden_layers=24"}),
        "fast-server": Condition(env={"HARNESS_TEST_MODEL": "num_hidden_layers=1"}),
    }


@contextlib.contextmanager
def group(words: list[str], **more) -> Iterator[subprocess.Popen]:
    """A process that, with all that it started in its group, is gone afterwards."""
    process = subprocess.Popen(words, start_new_session=True, **more)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def halting(parent: int) -> Iterator[None]:
    """Whoever descends from a process stands still for up to a second, a third of the time."""
    over, chance = threading.Event(), random.Random(parent)

    def halt() -> None:
        while not over.wait(chance.expovariate(1 / HALT_EVERY_S)):
            stopped = []
            for each in descendants(parent):
                with contextlib.suppress(psutil.Error):
                    if each.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                        each.suspend()
                        stopped.append(each)
            over.wait(chance.uniform(0.1, HALT_S))
            for each in stopped:
                with contextlib.suppress(psutil.Error):
                    each.resume()

    thread = threading.Thread(target=halt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def delayed(folder: Path) -> dict[str, str]:
    """The variables with which a process waits, and all that it starts: as DELAYS has them, or this process's own."""
    library = folder / "delays.so"
    cc.compile_c(ROOT / "tests/bench/delays.c", library, library=True)
    usual = {name: os.environ.get(name, most) for name, most in DELAYS.items()}
    return usual | {"LD_PRELOAD": str(library), "ASAN_OPTIONS": "verify_asan_link_order=0"}


def descendants(parent: int) -> list[psutil.Process]:
    try:
        return psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def tiers(condition: Condition, which: str) -> list[list[str]]:
    """Words for pytest, one list after the other: the two halves of `make test`, of the tests that `which` marks; of another real server
    the half that talks to it."""
    processes = 2 * (1 if "taskset" in condition.before else len(os.sched_getaffinity(0)))
    marked = f"{which} and " if which else ""
    waiting = ["-m", f"{marked}not vllm", "-n", str(min(processes, 8)), "--dist", "loadfile"]
    live = ["tests/live", "-m", f"{marked}vllm", "-n", "2", "--dist", "loadfile"]
    return [live] if "HARNESS_TEST_MODEL" in condition.env else [waiting, live]


def run(name: str, condition: Condition, halves: list[list[str]], limit_s: float) -> dict[str, Any] | None:
    """What one run of the tests came to; None if the time was over before its end."""
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for words in halves:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if condition.burns:
                stack.enter_context(group(BURN))
            pytest = [sys.executable, "-m", "pytest", f"--junitxml={folder / 'found.xml'}", *words]
            out = stack.enter_context((folder / "out").open("w"))
            process = stack.enter_context(
                group(
                    [*condition.before, *pytest],
                    cwd=ROOT,
                    env=os.environ
                    | {"HARNESS_REQUIRE_VLLM": "1"}
                    | condition.env
                    | (delayed(folder) if condition.delays else {}),
                    stdout=out,
                    stderr=out,
                )
            )
            if condition.halts:
                stack.enter_context(halting(process.pid))
            try:
                process.wait(max(limit_s - (time.monotonic() - begun), 0))
            except subprocess.TimeoutExpired:
                return None
            if not (folder / "found.xml").exists():
                failures.append(f"pytest ended with {process.returncode}: {(folder / 'out').read_text()[-300:]}")
                continue
            found_half(folder / "found.xml", counts, failures)
    return {
        "condition": name,
        "commit": COMMIT,
        "seconds": round(time.monotonic() - begun),
        **counts,
        "failures": failures,
    }


def found_half(path: Path, counts: Counter[str], failures: list[str]) -> None:
    for case in ET.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[kind] += 1
        if kind == "failed":
            failures.append(f"{case.get('classname')}.{case.get('name')}")
            why = next((line for found in case for line in (found.get("message") or "").splitlines() if line), "")
            print(f"    failed: {failures[-1]}: {why[:200]}", flush=True)


def table(runs: list[dict[str, Any]]) -> str:
    lines = [f"{'condition':12} {'runs':>4} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds a run':>14}"]
    for name in dict.fromkeys(run["condition"] for run in runs):
        own = [run for run in runs if run["condition"] == name]
        passed, failed, skipped, seconds = (
            sum(run.get(key, 0) for run in own) for key in ("passed", "failed", "skipped", "seconds")
        )
        lines.append(f"{name:12} {len(own):4} {passed:7} {failed:7} {skipped:8} {seconds / len(own):14.0f}")
        often = Counter(test for run in own for test in run["failures"])
        lines += [f"    {times} of {len(own)}: {test}" for test, times in often.most_common()]
    return "\n".join([*lines, f"commits: {', '.join(dict.fromkeys(run['commit'] for run in runs))}"])


def main() -> int:
    known = conditions()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_conditions")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--conditions", default="quiet,one-core,busy-core,nice", help=f"of {', '.join(known)}")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--whole", action="store_true", help="all tests, not those marked timing alone")
    parser.add_argument("--record", type=Path, help="a file of JSON lines to add to")
    parser.add_argument("words", nargs="*", help="for pytest, after --; else: the two halves of `make test`")
    given = parser.parse_args()
    asked = {name: known[name] for name in given.conditions.split(",")}
    end = time.monotonic() + given.minutes * 60
    for word in (signal.SIGINT, signal.SIGTERM):  # in the background of a script the first is ignored
        signal.signal(word, signal.default_int_handler)
    earlier = given.record.read_text().splitlines() if given.record and given.record.exists() else []
    runs = [json.loads(line) for line in earlier]
    try:
        for number in range(given.runs):
            for name, condition in asked.items():
                print(f"run {number + 1} of {given.runs}: {name}", flush=True)
                halves = [given.words] if given.words else tiers(condition, "" if given.whole else "timing")
                came = run(name, condition, halves, end - time.monotonic())
                if came is None:
                    print(f"the {given.minutes:g} minutes are over")
                    raise KeyboardInterrupt
                runs.append(came)
                if given.record:
                    with given.record.open("a") as record:
                        print(json.dumps(came), file=record)
    except KeyboardInterrupt:
        print("ended early; the table has what was done")
    print(table(runs))
    return int(any(run["failures"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
