"""Mutation run: a seeded sample of single changes, each against the tests that execute the changed lines.

    make mutants ARGS="--sample 300 --seed 1"            over everything in PACKAGES
    make mutants ARGS="--sample 100 --only harness/plan"  one package, directory or file, with its own tests

Everything happens in copies of the tree under a temporary folder. Tests run once under coverage (which lines each executes, how
long it takes, whether it passes); then every mutant has a forked process of its own, which had imported the libraries before.
A mutant is killed where a test fails or outruns its time; survivors are printed with their diffs. tests/mutants/may_live.toml
names those that may live and why; they do not count, and an entry whose lines are gone is reported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAY_LIVE = "tests/mutants/may_live.toml"
PACKAGES = {
    "harness/analyse": ("tests/analyse", "tests/report"),
    "harness/cost": ("tests/cost", "tests/report"),
    "harness/plan": ("tests/plan",),
    "harness/drive/sse.py": ("tests/drive/test_drive_sse.py", "tests/drive/test_drive_exchange.py"),
    "harness/drive/http1.py": ("tests/drive/test_drive_http1.py", "tests/drive/test_drive_exchange.py"),
    "harness/drive/dialect.py": ("tests/drive/test_drive_dialect.py", "tests/drive/test_drive_exchange.py"),
}
SLOW_S = 4.0  # longer tests are left out
TOTAL_S = 40.0  # of tests for one mutant, the quickest first
MEMORY_BYTES = 12 << 30
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--continue-on-collection-errors")


@dataclass
class Executed:
    """What the run under coverage saw: tests by file and line, and seconds of each test that passed."""

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]
    modules: list[str]  # what the tests imported and is not ours

    def tests_of(self, mutant) -> list[str]:
        """Tests for a mutant: of its lines, else of its function; of its whole file where it runs at import.

        Files named after the module come first, then the quickest.
        """
        of_lines = self.lines.get(mutant.path, {})
        names: set[str] = set()
        for span in (mutant.lines, mutant.scope_lines):
            names = names or {test for line in span for test in of_lines.get(line, ())}
        files = defaultdict(list)
        for test, seconds in sorted(self.seconds.items(), key=lambda pair: pair[1]):
            file = test.partition("::")[0]
            if seconds <= SLOW_S and (test in names or file in names):
                files[file].append(test)
        stem = Path(mutant.path).stem.split("_")[0]
        order = sorted(files, key=lambda file: (stem not in file, sum(self.seconds[test] for test in files[file])))
        chosen, total = [], 0.0
        for test in (test for file in order for test in files[file]):
            total += self.seconds[test]
            if total <= TOTAL_S:
                chosen.append(test)
        return chosen


def copy_tree(to: Path) -> Path:
    leave = shutil.ignore_patterns(".venv", ".git", "results", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, to, ignore=leave)
    (to / "results").mkdir()
    return to


def enter(copy: Path, scratch: Path) -> None:
    """Makes this process one that imports the copy, quietly, in a process group of its own."""
    os.setsid()
    os.chdir(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    os.environ |= {"PYTHONPATH": str(copy), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    tempfile.tempdir = None
    for name in [name for name in sys.modules if name.partition(".")[0] in ("harness", "tests", "conftest")]:
        del sys.modules[name]
    quiet = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def pytest_in(copy: Path, arguments: list[str], plugin) -> int:
    import pytest

    code = int(pytest.main([*arguments, *OPTIONS], plugins=[plugin]))
    imported = importlib.import_module("harness").__file__
    if imported is None or not Path(imported).is_relative_to(copy):
        raise RuntimeError(f"the tests imported {imported}, not the copy {copy}")
    return code


def record(copy: Path, scratch: Path, tests: list[str], sources: list[str], out: Path) -> None:
    """In a forked process: the tests once, under coverage; writes what `Executed` holds."""
    import coverage

    from tests.mutants.selecting import Recorder

    enter(copy, scratch)
    cover = coverage.Coverage(
        data_file=None, include=[str(copy / source) for source in sources], concurrency=["thread"]
    )
    cover.start()
    recorder = Recorder(cover)
    code = pytest_in(copy, tests, recorder)
    cover.stop()
    data = cover.get_data()
    lines = {
        str(Path(file).relative_to(copy)): {
            line: [context for context in contexts if context]
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    modules = [name for name, module in sys.modules.items() if module and _is_library(module)]
    out.write_text(json.dumps({"lines": lines, "seconds": recorder.passed(), "modules": modules, "code": code}))


def _is_library(module) -> bool:
    return "site-packages" in str(getattr(module, "__file__", "") or "") and "." not in module.__name__


def executed(copies: list[Path], scratch: Path, packages: list[str], sources: list[str]) -> Executed:
    """Runs the packages' tests, the files dealt out to as many processes as there are copies."""
    named = sorted({place for package in packages for place in PACKAGES[package]})
    files = [
        str(file.relative_to(ROOT))
        for place in named
        for file in ([ROOT / place] if place.endswith(".py") else sorted((ROOT / place).glob("test_*.py")))
    ]
    outs = [scratch / f"executed-{at}.json" for at in range(len(copies))]
    children = [
        multiprocessing.Process(target=record, args=(copy, scratch, files[at :: len(copies)], sources, out))
        for at, (copy, out) in enumerate(zip(copies, outs, strict=True))
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    found = Executed(defaultdict(lambda: defaultdict(set)), {}, [])
    for out in outs:
        part = json.loads(out.read_text())
        found.seconds |= part["seconds"]
        found.modules = sorted({*found.modules, *part["modules"]})
        for file, lines in part["lines"].items():
            for line, tests in lines.items():
                found.lines[file][int(line)] |= set(tests)
    return found


def try_mutant(copy: Path, scratch: Path, mutant, tests: list[str], limit_s: float) -> str:
    """`killed`, `survived` or `timed out`; the copy's file is put back."""
    from tests.mutants.selecting import Only

    file = copy / mutant.path
    before = file.read_bytes()
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
        at, mutant, tests, limit_s = tasks[task]
        answers.put((at, try_mutant(copy, scratch, mutant, tests, limit_s)))


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
    from tests.mutants.mutations import is_a_change, mutants_of

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
    seen = executed(copies, scratch, packages, paths)
    if not seen.seconds:
        raise SystemExit("no test passed: MUTANTS_LOG=FILE keeps what pytest says")
    every = [mutant for path in paths for mutant in mutants_of(copies[0], path)]
    random.Random(asked.seed).shuffle(every)
    chosen: list = []
    for mutant in every:
        if len(chosen) < asked.sample and is_a_change(mutant):
            chosen.append(mutant)
    print(f"{len(every)} mutants in {len(paths)} files, {len(chosen)} drawn with seed {asked.seed}; "
          f"{len(seen.seconds)} tests passed under coverage in {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    outcomes = run_all(chosen, seen, copies, scratch)
    print(f"finished after {time.monotonic() - begun:.0f} s")
    return report(chosen, outcomes, packages, asked.least)


def run_all(chosen: list, seen: Executed, copies: list[Path], scratch: Path) -> list[str]:
    outcomes = ["no tests"] * len(chosen)
    tasks = []
    for at, mutant in enumerate(chosen):
        if tests := seen.tests_of(mutant):
            tasks.append((at, mutant, tests, 30 + 5 * sum(seen.seconds[test] for test in tests)))
    following, answers = multiprocessing.Value("i", 0), multiprocessing.SimpleQueue()
    children = [
        multiprocessing.Process(target=worker, args=(copy, scratch, tasks, following, answers, seen.modules))
        for copy in copies
    ]
    for child in children:
        child.start()
    for _ in tasks:
        at, outcome = answers.get()
        outcomes[at] = outcome
    for child in children:
        child.join()
    return outcomes


def report(chosen: list, outcomes: list[str], packages: list[str], least: float) -> int:
    allowed = may_live(ROOT)
    counts: dict[str, Counter] = {package: Counter() for package in packages}
    for mutant, outcome in zip(chosen, outcomes, strict=True):
        package = next(package for package in packages if mutant.path.startswith(package))
        diff, reason = mutant.diff(), None
        if outcome in ("survived", "no tests"):
            reason = allowed.get((mutant.path, mutant.scope, diff))
            why = f" (may live: {reason})" if reason else ""
            print(f"\n{outcome}{why}: {mutant.path}:{mutant.lines.start} {mutant.scope}\n{diff}")
        counts[package]["may live" if reason else outcome] += 1
    total = sum(counts.values(), Counter())
    print(f"\n{'':28}{'killed':>9}{'survived':>10}{'timed out':>11}{'no tests':>10}{'may live':>10}{'killed %':>10}")
    for name, count in [*counts.items(), ("all", total)]:
        cells = [count[key] for key in ("killed", "survived", "timed out", "no tests", "may live")]
        print(f"{name:28}{cells[0]:9}{cells[1]:10}{cells[2]:11}{cells[3]:10}{cells[4]:10}{percent(count):10.1f}")
    for path, scope, diff in allowed:
        gone = {line[1:] for line in diff.splitlines() if line[0] == "-"} - set((ROOT / path).read_text().splitlines())
        if gone:
            print(f"{MAY_LIVE}: {path} {scope} has no line {gone} any more")
    return int(percent(total) < least)


def percent(count: Counter) -> float:
    """Killed or timed out, of all that may not live."""
    of = count.total() - count["may live"]
    return 100 * (count["killed"] + count["timed out"]) / of if of else 100.0


if __name__ == "__main__":
    sys.exit(main())
