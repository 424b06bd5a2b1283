"""`python -m tests.nodes.parent URL RUN_DIR STATE`: a parent of two nodes that stores a run, to be killed; prints the agents' pids, then `done N`."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.records import Cell, Load, Plan
from harness.store.writer import RunWriter
from tests.nodes.crews import Storing, offer, poisson
from tests.nodes.local_crew import LocalCrew
from tests.store.store_values import manifest

COUNT, RATE_RPS, TOKENS = 3000, 100, 5


def main(url: str, run_dir: Path, state: Path) -> None:
    plan, load = poisson(COUNT, RATE_RPS, TOKENS), Load(rate_rps=RATE_RPS)
    writer = RunWriter.create(run_dir, manifest(cell=Cell("golden", "fixed", load, 1)))
    writer.write_plan(Plan(tuple(plan), (), load, "", 0, ""))
    with LocalCrew(2, state=state) as crew, writer:
        print(*(process.pid for process in crew.processes), flush=True)
        seen = Storing(on_progress=lambda progress: print("done", progress.done, flush=True), writer=writer)
        offer(crew, url, plan, load, seen, run_id="run", on_nodes=seen.told)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
