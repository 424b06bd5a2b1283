"""Which tests execute which lines: the tests once under coverage, in forked processes that import the copies."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import coverage

from tests.mutants.copies import ROOT, enter, pytest_in
from tests.mutants.mutations import Mutant
from tests.mutants.selecting import Recorder

SLOW_S = 12.0  # of processor time: longer tests are left out
TOTAL_S = 60.0  # of tests for one mutant, the quickest first


@dataclass
class Executed:
    """What the run under coverage saw: tests by file and line, and seconds of each test that passed."""

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]
    modules: list[str]  # what the tests imported and is not ours

    def tests_of(self, mutant: Mutant) -> list[str]:
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


def record(copy: Path, scratch: Path, tests: list[str], sources: list[str], out: Path) -> None:
    """In a forked process: the tests once, under coverage; writes what `Executed` holds."""
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


def executed(copies: list[Path], scratch: Path, named: list[str], sources: list[str]) -> Executed:
    """Runs the named tests (files, or directories of them), dealt out to as many processes as there are copies."""
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
