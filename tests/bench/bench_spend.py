"""How much of a spend cap is used, over the simulated runs of tests/spend: `python -m tests.bench.bench_spend [--runs 1000]`.

Demand is without end, and one request's worst case is a 20th to a 60th of the cap: what a cap of a few worst cases has no room for is no
fault of the gate. Printed are shares of the cap, over the runs: billed by the API; of it by replies that tell all of their bill; the most
that can have been billed by those that tell less (cut, in flight at a kill, silent of cache writes), and both together: usable.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

from tests.spend.test_spend_simulation import Came, one_run

LEVELS = (0.0, 0.05, 0.5, 0.95, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-spend-") as name, mock.patch("harness.price.ledger.os.fsync"):
        runs = [one_run(Path(name) / f"key-{seed}.jsonl", seed) for seed in range(args.runs)]
    over = sum(run.billed > run.cap for run in runs)
    print(f"{len(runs)} runs, {sum(run.kills for run in runs)} kills, each settled; {over} billed more than the cap")
    print(f"{'share of the cap':<34}" + "".join(f"{f'{level:.0%}':>9}" for level in LEVELS))
    for words, dead in (("no kill", False), ("killed once or twice", True)):
        some = [run for run in runs if bool(run.kills) is dead]
        for what, share in SHARES.items():
            values = sorted(share(run) for run in some)
            ends = "".join(f"{values[round(level * (len(values) - 1))]:9.1%}" for level in LEVELS)
            print(f"{f'{words}: {what}':<34}{ends}")
    print(f"usable at least 90 %: {sum(run.usable >= 0.9 for run in runs) / len(runs):.1%} of the runs")


SHARES = {
    "billed": lambda run: float(run.billed / run.cap),
    "known": lambda run: float(run.known / run.cap),
    "unknown": lambda run: float(run.unknown / run.cap),
    "usable": Came.usable.fget,
}

if __name__ == "__main__":
    main()
