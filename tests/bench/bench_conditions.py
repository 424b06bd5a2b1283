"""The tests that touch time, again and again under the conditions that machines come in: which of them know how fast one is.

`python -m tests.bench.bench_conditions [--runs 10] [--conditions quiet,one-core] [--minutes 60] [-- WORDS FOR PYTEST]`. Without words
all tests marked `timing` run. Conditions take turns, so that a run that is ended early (Ctrl-C, --minutes) has all of them in its table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]
BURN = [sys.executable, "-c", "while True: pass"]


@dataclass
class Condition:
    """`before`: words before pytest's. `burns`: a process that keeps a core busy runs beside it. `env`: variables."""

    before: tuple[str, ...] = ()
    burns: bool = False
    env: dict[str, str] = field(default_factory=dict)
    runs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def conditions() -> dict[str, Condition]:
    return {
        "quiet": Condition(),
        "one-core": Condition(("taskset", "-c", str(min(os.sched_getaffinity(0))))),
        "busy-core": Condition(burns=True),
        "nice": Condition(("nice", "-n", "19")),
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


def run(condition: Condition, words: list[str], limit_s: float) -> bool:
    """One run of the tests; False if the time was over before its end."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if condition.burns:
            stack.enter_context(group(BURN))
        pytest = [sys.executable, "-m", "pytest", f"--junitxml={folder / 'found.xml'}", *words]
        out = (folder / "out").open("w")
        stack.callback(out.close)
        begun = time.monotonic()
        process = stack.enter_context(
            group([*condition.before, *pytest], cwd=ROOT, env=os.environ | condition.env, stdout=out, stderr=out)
        )
        try:
            process.wait(max(limit_s, 0))
        except subprocess.TimeoutExpired:
            return False
        condition.seconds.append(time.monotonic() - begun)
        condition.runs += 1
        if not (folder / "found.xml").exists():
            condition.failed[f"pytest ended with {process.returncode}: {(folder / 'out').read_text()[-300:]}"] += 1
            return True
        for case in ET.parse(folder / "found.xml").iter("testcase"):
            kinds = {child.tag for child in case}
            kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            condition.counts[kind] += 1
            if kind == "failed":
                name = f"{case.get('classname')}.{case.get('name')}"
                condition.failed[name] += 1
                why = next((line for found in case for line in (found.get("message") or "").splitlines() if line), "")
                print(f"    failed: {name}: {why[:200]}", flush=True)
    return True


def table(asked: dict[str, Condition]) -> str:
    lines = [f"{'condition':12} {'runs':>4} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds a run':>14}"]
    for name, c in asked.items():
        mean = f"{sum(c.seconds) / len(c.seconds):.0f}" if c.seconds else "-"
        lines.append(
            f"{name:12} {c.runs:4} {c.counts['passed']:7} {c.counts['failed']:7} {c.counts['skipped']:8} {mean:>14}"
        )
        lines += [f"    {times} of {c.runs}: {test}" for test, times in c.failed.most_common()]
    return "\n".join(lines)


def main() -> int:
    known = conditions()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_conditions")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--conditions", default="quiet,one-core,busy-core,nice", help=f"of {', '.join(known)}")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("words", nargs="*", help="for pytest, after --; else: -m timing")
    given = parser.parse_args()
    asked = {name: known[name] for name in given.conditions.split(",")}
    end = time.monotonic() + given.minutes * 60
    for word in (signal.SIGINT, signal.SIGTERM):  # in the background of a script the first is ignored
        signal.signal(word, signal.default_int_handler)
    try:
        for number in range(given.runs):
            for name, condition in asked.items():
                print(f"run {number + 1} of {given.runs}: {name}", flush=True)
                if not run(condition, given.words or ["-m", "timing"], end - time.monotonic()):
                    print(f"the {given.minutes:g} minutes are over")
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("ended early; the table has what was done")
    print(table(asked))
    return int(any(c.failed for c in asked.values()))


if __name__ == "__main__":
    sys.exit(main())
