"""Random loads on simulated servers whose steady state is known: the worst error of any VALID number.

    python -m tests.bench.bench_window --cases 300 --seed 1

Prints every number beyond what is allowed (3 %, or half a standard deviation of the run's own sampling error), and the closest ones. Then
as many cases whose rate changes: how far the rates of VALID runs are from those of all that was sent.
"""

from __future__ import annotations

import random

import click

from tests.judge.steady import MAX_OFF, judged, moving_case, off_the_plan, random_case


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
    moving(cases, runs, random.Random(seed))


def moving(cases: int, runs: int, rng: random.Random) -> None:
    offs = [
        (off, case)
        for n in range(cases)
        for case in [moving_case(rng)]
        for seed in range(runs)
        if (off := off_the_plan(case, 1000 * n + seed)) is not None
    ]
    worst, case = max(offs, key=lambda one: abs(one[0]), default=(0.0, None))
    beyond = sum(abs(off) > MAX_OFF for off, _ in offs)
    click.echo(
        f"{cases} cases whose rate changes, {cases * runs} runs, {len(offs)} VALID, {beyond} more than 3 % off, the worst {worst:+.2%}: {case}"
    )


if __name__ == "__main__":
    main()
