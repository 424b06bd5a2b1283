"""Random loads on simulated servers whose steady state is known: the worst error of any VALID number.

    python -m tests.bench.bench_window --cases 300 --seed 1

Prints every number beyond what is allowed (3 %, or half a standard deviation of the run's own sampling error), and the closest ones.
"""

from __future__ import annotations

import random

import click

from tests.judge.steady import judged, random_case


@click.command()
@click.option("--cases", default=100, show_default=True, help="random cases")
@click.option("--runs", default=16, show_default=True, help="runs of each")
@click.option("--seed", default=1, show_default=True)
def main(cases: int, runs: int, seed: int) -> None:
    rng = random.Random(seed)
    total = valid = 0
    found = []
    for n in range(cases):
        case = random_case(rng)
        passed, offs = judged(case, range(1000 * n, 1000 * n + runs))
        total, valid = total + runs, valid + passed
        found += offs
        for off in offs:
            if abs(off.by) > off.allowed:
                click.echo(
                    f"BEYOND {off.number} {off.by:+.1%}, allowed {off.allowed:.1%}, {off.runs} of {runs} VALID: {case}"
                )
    beyond = sum(abs(off.by) > off.allowed for off in found)
    click.echo(
        f"{cases} cases, {total} runs, {valid} VALID, {len(found)} numbers, {beyond} beyond what is allowed; goodput never above throughput"
    )
    click.echo("closest to the limit (share of what is allowed):")
    for off in sorted(found, key=lambda off: -abs(off.by) / off.allowed)[:8]:
        click.echo(f"  {abs(off.by) / off.allowed:.2f}  {off.number} {off.by:+.2%} of {off.allowed:.2%}: {off.case}")
    steady = [off for off in found if off.allowed < 0.04]
    if steady:
        worst = max(steady, key=lambda off: abs(off.by))
        click.echo(
            f"where sampling allows less than 4 %: {len(steady)} numbers, the worst {worst.number} {worst.by:+.2%}: {worst.case}"
        )


if __name__ == "__main__":
    main()
