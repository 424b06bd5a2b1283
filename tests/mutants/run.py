"""Mutation run: a seeded sample of single changes, each against the tests that execute the changed lines.

    make mutants ARGS="--sample 300 --seed 1"            over everything in PACKAGES
    make mutants ARGS="--sample 100 --only harness/measure/plan"  one package, directory or file, with its own tests

Everything happens in copies of the tree under a temporary folder. Tests run once under coverage (which lines each executes, how
long it takes, whether it passes); then every mutant has a forked process of its own, which had imported the libraries before.
A mutant is killed where a test fails or outruns its time; survivors are printed with their diffs. What a test reads from a cache
that an earlier one filled is not seen as executed by it, so that a survivor is to be tried by hand before it is believed. tests/mutants/may_live.toml
names those that may live and why; they do not count, and an entry whose lines are gone is reported.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

from tests.mutants.copies import ROOT, copy_tree, enter, pytest_in
from tests.mutants.executing import Executed, executed
from tests.mutants.mutations import Mutant, is_a_change, mutants_of
from tests.mutants.selecting import Only

MAY_LIVE = "tests/mutants/may_live.toml"
PARSERS = ("tests/drive/test_drive_parsers.py", "tests/drive/test_drive_rows.py")
PACKAGES = {
    "harness/base/stats.py": ("tests/test_stats.py",),
    "harness/judge": (
        "tests/judge",
        "tests/report",
        "tests/store/test_store_history.py",
        "tests/store/test_history_retention.py",
    ),
    "harness/price": ("tests/price", "tests/planner"),
    "harness/config/model": ("tests/model",),
    "harness/planner": ("tests/planner",),
    "harness/measure/plan": ("tests/plan",),
    "harness/measure/drive/sse.py": ("tests/drive/test_drive_sse.py", *PARSERS),
    "harness/measure/drive/http1.py": ("tests/drive/test_drive_http1.py", *PARSERS),
    "harness/measure/drive/dialect": ("tests/drive/test_drive_dialect.py", *PARSERS),
}
MEMORY_BYTES = 12 << 30
CONTROL = 20
LIVING = ("survived", "no tests")


def try_mutant(copy: Path, scratch: Path, mutant: Mutant, tests: list[str], limit_s: float, *, control: bool) -> str:
    """`killed`, `survived` or `timed out`; the copy's file is put back. `control`: the same without the change."""
    file = copy / mutant.path
    before = file.read_bytes()
    if not control:
        file.write_text(mutant.source)
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            enter(copy, scratch)
            sys.dont_write_bytecode = True
            files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
            os._exit(pytest_in(copy, [*files, "-x"], Only(tests)))
        except BaseException:
            os._exit(1)
    until = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    file.write_bytes(before)
    if not done:
        return "timed out"
    return "survived" if status == 0 else "killed"


def worker(copy: Path, scratch: Path, tasks: list, following, answers, modules: list[str]) -> None:
    """Takes the next mutant until none is left; the libraries are imported once, before the forks."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            continue
    while True:
        with following.get_lock():
            task, following.value = following.value, following.value + 1
        if task >= len(tasks):
            return
        at, mutant, tests, limit_s, control = tasks[task]
        answers.put((at, control, try_mutant(copy, scratch, mutant, tests, limit_s, control=control)))


def may_live(root: Path) -> dict[tuple[str, str, str], str]:
    entries = tomllib.loads((root / MAY_LIVE).read_text()).get("mutant", [])
    return {(entry["path"], entry["scope"], entry["diff"].strip("\n")): entry["reason"] for entry in entries}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=300, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="a package, directory or file under harness/")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--least", type=float, default=0.0, help="exit with 1 below this percentage")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return run(asked, Path(folder).resolve())


def run(asked: argparse.Namespace, scratch: Path) -> int:
    copies = [copy_tree(scratch / f"copy-{at}") for at in range(asked.jobs)]
    paths = sorted(
        str(file.relative_to(copies[0]))
        for package in PACKAGES
        for file in ([copies[0] / package] if package.endswith(".py") else (copies[0] / package).glob("*.py"))
    )
    if asked.only:
        paths = [path for path in paths if any(path.startswith(only) for only in asked.only)]
    packages = [package for package in PACKAGES if any(path.startswith(package) for path in paths)]
    begun = time.monotonic()
    named = sorted({place for package in packages for place in PACKAGES[package]})
    seen = executed(copies, scratch, named, paths)
    if not seen.seconds:
        raise SystemExit("no test passed: MUTANTS_LOG=FILE keeps what pytest says")
    every = [mutant for path in paths for mutant in mutants_of(copies[0], path)]
    random.Random(asked.seed).shuffle(every)
    chosen: list[Mutant] = []
    for mutant in every:
        if len(chosen) < asked.sample and is_a_change(mutant):
            chosen.append(mutant)
    print(f"{len(every)} mutants in {len(paths)} files, {len(chosen)} drawn with seed {asked.seed}; "
          f"{len(seen.seconds)} tests passed under coverage in {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    allowed = may_live(ROOT)
    outcomes = run_all(chosen, seen, copies, scratch, allowed)
    print(f"finished after {time.monotonic() - begun:.0f} s")
    return report(chosen, outcomes, packages, allowed, asked.least)


def run_all(chosen: list[Mutant], seen: Executed, copies: list[Path], scratch: Path, allowed: dict) -> list[str]:
    """The outcome of each mutant; those that live are printed as they are found.

    The tests of every CONTROL-th also run on the code as it is: were they to fail there, what they kill would mean nothing.
    """
    outcomes, tasks = ["no tests"] * len(chosen), []
    for at, mutant in enumerate(chosen):
        if tests := seen.tests_of(mutant):
            limit_s = 60 + 10 * sum(seen.seconds[test] for test in tests)
            tasks += [(at, mutant, tests, limit_s, control) for control in (False, True)[: 2 - bool(at % CONTROL)]]
        else:
            show(mutant, "no tests", allowed.get((mutant.path, mutant.scope, mutant.diff())))
    following, answers = multiprocessing.Value("i", 0), multiprocessing.SimpleQueue()
    children = [
        multiprocessing.Process(target=worker, args=(copy, scratch, tasks, following, answers, seen.modules))
        for copy in copies
    ]
    for child in children:
        child.start()
    for _ in tasks:
        at, control, outcome = answers.get()
        if control and outcome != "survived":
            print(f"\nfailed unchanged: the tests of {chosen[at].path} {chosen[at].scope}", flush=True)
        if not control:
            outcomes[at] = outcome
        if not control and outcome in LIVING:
            show(chosen[at], outcome, allowed.get((chosen[at].path, chosen[at].scope, chosen[at].diff())))
    for child in children:
        child.join()
    return outcomes


def show(mutant: Mutant, outcome: str, reason: str | None) -> None:
    why = f" (may live: {reason})" if reason else ""
    print(f"\n{outcome}{why}: {mutant.path}:{mutant.lines.start} {mutant.scope}\n{mutant.diff()}", flush=True)


def report(chosen: list[Mutant], outcomes: list[str], packages: list[str], allowed: dict, least: float) -> int:
    """The table by package, and entries of the list whose lines are gone. Returns the exit code."""
    counts: dict[str, Counter] = {package: Counter() for package in packages}
    for mutant, outcome in zip(chosen, outcomes, strict=True):
        package = next(package for package in packages if mutant.path.startswith(package))
        lives = outcome in LIVING and (mutant.path, mutant.scope, mutant.diff()) in allowed
        counts[package]["may live" if lives else outcome] += 1
    total = sum(counts.values(), Counter())
    print(f"\n{'':28}{'killed':>9}{'survived':>10}{'timed out':>11}{'no tests':>10}{'may live':>10}{'killed %':>10}")
    for name, count in [*counts.items(), ("all", total)]:
        cells = [count[key] for key in ("killed", "survived", "timed out", "no tests", "may live")]
        print(f"{name:28}{cells[0]:9}{cells[1]:10}{cells[2]:11}{cells[3]:10}{cells[4]:10}{percent(count):10.1f}")
    for path, scope, diff in allowed:
        there = (ROOT / path).read_text() if (ROOT / path).exists() else ""
        gone = {line[1:] for line in diff.splitlines() if line[0] == "-"} - set(there.splitlines())
        if gone:
            print(f"{MAY_LIVE}: {path} {scope} has no line {gone} any more")
    return int(percent(total) < least)


def percent(count: Counter) -> float:
    """Killed or timed out, of all that may not live."""
    of = count.total() - count["may live"]
    return 100 * (count["killed"] + count["timed out"]) / of if of else 100.0


if __name__ == "__main__":
    sys.exit(main())
