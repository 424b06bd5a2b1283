"""`make fuzz`: broken inputs without end, in processes of their own; prints inputs, minutes and findings.

ARGS="--minutes 20 --seed 1 [--only runs | configs | traces | c] [--cases 2000] [--jobs 2]"
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz import c_files, checking, configs, run_directories, stored, traces

BATCH = 40  # cases of one process: a crash or a leak ends with it
MEMORY_BYTES = 6 << 30
One = tuple[str, str, checking.Came]  # what was broken, the command, what came of it


def runs(folder: Path, seed: int, count: int) -> Iterator[One]:
    whole = folder / "whole"
    draw = random.Random(seed)
    for case, name in _some(run_directories.cases(whole, draw), count):
        broken = run_directories.copied(whole, folder / f"broken-{os.getpid()}")
        case.spoil(broken)
        yield case.what, name, checking.run(run_directories.COMMANDS[name](broken, whole))


def files(made: Callable[[Path, random.Random], Iterator[tuple[str, list[str], bool]]]) -> Callable[..., Iterator[One]]:
    """Of single files: (what, command line, must it be refused)."""

    def several(folder: Path, seed: int, count: int) -> Iterator[One]:
        own = folder / f"files-{os.getpid()}"
        own.mkdir(exist_ok=True)
        for what, words, refused in _some(made(own, random.Random(seed)), count):
            came = checking.run(words)
            if refused and came.finding is None and came.code == 0:
                came = checking.Came("nonsense", 0, came.said[:200], what.partition(":")[0])
            yield what, " ".join(words[:2]), came

    return several


KINDS: dict[str, Callable[[Path, int, int], Iterator[One]]] = {
    "runs": runs,
    "configs": files(configs.cases),
    "traces": files(traces.cases),
}


def _some(cases: Iterator, count: int) -> Iterator:
    return (case for case, _ in zip(cases, range(count), strict=False))


def _child(kind: str, folder: Path, seed: int, count: int, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.chdir(folder)
    for what, command, came in KINDS[kind](folder, seed, count):
        pipe.send((what, command, came))
    pipe.send(None)


def batch(kind: str, folder: Path, seed: int, count: int = BATCH) -> Iterator[One]:
    """Cases of one process; one that dies or stands still is a finding too."""
    ours, theirs = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=_child, args=(kind, folder, seed, count, theirs))
    process.start()
    theirs.close()
    silent_s = 0.0
    try:
        while silent_s < 2 * checking.STILL_S:
            if not ours.poll(1):
                silent_s += 1
                if not process.is_alive() and not ours.poll():
                    break
                continue
            silent_s, one = 0.0, ours.recv()
            if one is None:
                return
            yield one
        said = (
            f"seed {seed}: no answer, not even to the alarm"
            if process.is_alive()
            else f"seed {seed}: the process ended with {process.exitcode}"
        )
        yield "?", kind, checking.Came("hang" if process.is_alive() else "crash", 1, said)
    except EOFError:
        process.join()
        yield "?", kind, checking.Came("crash", 1, f"seed {seed}: the process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def a_batch(kind: str, folder: Path, seed: int) -> Iterator[One]:
    return c_files.batch(folder / "c", seed) if kind == "c" else batch(kind, folder, seed)


def at_once(jobs: int, folder: Path, wanted: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[One]]]:
    """Batches (kind, seed), so many at a time, in the order in which they are done."""
    with ThreadPoolExecutor(jobs) as pool:
        going: dict[Future[list[One]], str] = {}
        while True:
            while len(going) < jobs and (one := next(wanted, None)):
                going[pool.submit(lambda kind, seed: list(a_batch(kind, folder, seed)), *one)] = one[0]
            if not going:
                return
            for done in wait(going, return_when=FIRST_COMPLETED).done:
                yield going.pop(done), done.result()


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--minutes", type=float, default=10)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--cases", type=int, default=10**9)
    words.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    words.add_argument("--only", choices=[*KINDS, "c"])
    words.add_argument("--findings", type=Path, help="also as JSON lines")
    given = words.parse_args()
    kinds = [given.only] if given.only else ["c", "runs", "configs", "runs", "traces"]
    begun = time.monotonic()
    counts, places, commands = Counter[str](), Counter[tuple[str, str, str]](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "c" in kinds and (why := c_files.build_all(folder / "c")):
            print(f"the C files are not fuzzed: {why}", flush=True)
            kinds.remove("c")
            if given.only:
                return 2
        stored.build(folder / "whole")
        for words in run_directories.COMMANDS.values():  # what is imported here is not imported again in every process
            checking.run(words(folder / "whole", folder / "whole"))

        def cases() -> int:  # inputs of C are so many that no others would come
            return sum(counts.values()) - (0 if given.only else counts["c"])

        def more() -> Iterator[tuple[str, int]]:
            number = 0
            while kinds and cases() < given.cases and time.monotonic() - begun < 60 * given.minutes:
                yield kinds[number % len(kinds)], 1000 * given.seed + number
                number += 1

        for kind, found in at_once(given.jobs, folder, more()):
            for what, command, came in found:
                counts[kind] += 1
                commands[f"{kind}: {command}"] += 1
                if came.finding is None:
                    continue
                key = (came.finding, came.where, came.said.splitlines()[0][:100] if came.said else "")
                places[key] += 1
                if places[key] == 1:
                    print(f"{came.finding}: {came.where}: {came.said[:150]!r}\n    {what} | {command}", flush=True)
                if given.findings:
                    with given.findings.open("a") as file:
                        file.write(json.dumps([kind, what, command, came.finding, came.where, came.said[:300]]) + "\n")
    minutes = (time.monotonic() - begun) / 60
    print(
        f"inputs: {sum(counts.values()):,} ({', '.join(f'{n:,} {kind}' for kind, n in counts.items())}) in {minutes:.1f} min"
    )
    print(f"findings: {sum(places.values()):,} at {len(places):,} places")
    for (finding, where, said), count in places.most_common():
        print(f"  {count:4} {finding} {where} {said}")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
