"""What `harness compare` promises, on simulated campaigns: false alarms, changes found, coverage. `python -m tests.bench.bench_compare`.

Every campaign has 12 cells x 6 metrics and goes through `compare` itself. A value is its cell's level x exp(noise): noise that the
plan of a repetition gives to both sides, drift that all cells of one repetition share, and the repetition's own, with Student's t(4)
tails and half of it common to the metrics of a run. `--campaigns N` (default 300), `--only coverage|alarms|found`.
"""

from __future__ import annotations

import argparse

import numpy as np

from harness.base import clock, stats
from harness.judge.compare.comparison import compare
from harness.judge.compare.detect import detect
from harness.judge.compare.sides import Side
from tests.judge.compare_campaigns import campaign, loads, noise

KEYS = ("output_tps", "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "itl_s.p99", "e2el_s.p50")
CELLS = loads(12)
TPOT = KEYS.index("tpot_s.p50")
SPREADS = {  # of the repetition's own noise, one a cell
    "1.5 % in every cell": np.full(12, 0.015),
    "1 % to 2 %": np.linspace(0.01, 0.02, 12),
    "1.2 %, one cell at saturation 12 %": np.r_[np.full(11, 0.012), 0.12],
    "half the cells 1 %, half 5 %": np.r_[np.full(6, 0.01), np.full(6, 0.05)],
}


def values(rng, n, spread, plan, drift=0.005) -> np.ndarray:
    """(repetition, cell, metric): logarithms around 0. `plan`: what this side shares with the other."""
    own = noise(rng, n, 12, 6) * spread[None, :, None]
    return plan + own + rng.normal(0, drift, (n, 1, 1))


def side(logs: np.ndarray, name: str) -> Side:
    cells = {
        load: {key: (10.0 * np.exp(logs[:, c, m])).tolist() for m, key in enumerate(KEYS)}
        for c, load in enumerate(CELLS)
    }
    return campaign(cells, campaign=name)


def pair(rng, n, spread, plan_spread, slower=0.0, cell=0) -> tuple[Side, Side]:
    """Two campaigns that replay the same plans; in the second TPOT of one cell is slower."""
    plan = noise(rng, n, 12, 6) * plan_spread
    base, new = values(rng, n, spread, plan), values(rng, n, spread, plan)
    new[:, cell, TPOT] += np.log1p(slower)
    return side(base, "base"), side(new, "new")


def alarms(campaigns: int) -> None:
    print(
        f"A/A: campaigns of two equal sides in which anything of 72 comparisons is called regressed (or improved), {campaigns} each"
    )
    for name, spread in SPREADS.items():
        for n in (3, 5, 10):
            for plan in (0.0, 0.03) if name in list(SPREADS)[:2] else (0.03,):
                rng = np.random.default_rng(n)
                regressed = improved = 0
                for _ in range(campaigns):
                    verdicts = {
                        e.verdict for e in compare(*pair(rng, n, spread, plan), metrics=KEYS, min_effect=0.0).effects
                    }
                    regressed += "regressed" in verdicts
                    improved += "regressed" in verdicts or "improved" in verdicts
                print(
                    f"  {name}, {n} repetitions, plans' own spread {plan:.0%}: regressed {regressed / campaigns:.1%}, "
                    f"either {improved / campaigns:.1%} (no minimum effect)",
                    flush=True,
                )


def small(rng, n, cells, keys, spread, shared, tail, slower=0.0, cell=0) -> tuple[Side, Side]:
    """Two campaigns of `cells` x `keys`; `shared`: of a repetition's variance, what its plan gives to both sides."""
    plan = noise(rng, n, cells, len(keys), tail) * spread * np.sqrt(shared)
    sides = []
    for name in ("base", "new"):
        logs = plan + noise(rng, n, cells, len(keys), tail) * spread * np.sqrt(1 - shared)
        if name == "new":
            logs[:, cell, keys.index("tpot_s.p50")] += np.log1p(slower)
        values = {
            load: {key: (10.0 * np.exp(logs[:, c, m])).tolist() for m, key in enumerate(keys)}
            for c, load in enumerate(loads(cells))
        }
        sides.append(campaign(values, campaign=name))
    return sides[0], sides[1]


def power(campaigns, pilot, cells, keys, spread, shared, tail, again=True, seed=1) -> tuple[float, np.ndarray]:
    """(share of 3 % changes found at the repetitions that detect asks for after a pilot, those repetitions)."""
    rng = np.random.default_rng(seed)
    hits, asked = 0, []
    for k in range(campaigns):
        cell = k % cells
        base, new = small(rng, pilot, cells, keys, spread, shared, tail)
        plan = detect(base, 0.03, again=new if again else None, metrics=keys)
        row = next(r for r in plan.rows if r.metric == "tpot_s.p50" and r.load == loads(cells)[cell])
        asked.append(row.needed or plan.limit)
        result = compare(*small(rng, asked[-1], cells, keys, spread, shared, tail, 0.03, cell), metrics=keys)
        hits += any(
            e.verdict == "regressed" and e.metric == "tpot_s.p50" and e.load == loads(cells)[cell]
            for e in result.effects
        )
    return hits / campaigns, np.array(asked)


def found(campaigns: int) -> None:
    """The power at the number asked for: pilots of one campaign, and of two that replay the same plans."""
    print(
        f"\nA/B: TPOT of one cell 3 % slower, at the repetitions that detect asks for after a pilot, {campaigns} each"
    )
    print("cells  metrics  spread  plans' share of it  tails   pilot    found  asked for: median (10 % to 90 %)")
    for cells, keys in ((1, KEYS[3:4]), (4, KEYS[3:4]), (1, KEYS), (12, KEYS)):
        for spread, shared, tail in (
            (0.01, 0, np.inf),
            (0.02, 0, 4.0),
            (0.02, 0.5, np.inf),
            (0.02, 0.9, np.inf),
            (0.02, 0.9, 4.0),
        ):
            for pilot in (3, 5, 10):
                share, asked = power(campaigns, pilot, cells, keys, spread, shared, tail, again=shared > 0)
                low, middle, high = np.quantile(asked, [0.1, 0.5, 0.9])
                print(
                    f"{cells:5d} {len(keys):8d} {spread:7.0%} {shared:19.0%} {'t(4)' if tail == 4 else 'normal':>7s} "
                    f"{pilot:3d}{' x 2' if shared else '    '} {share:8.1%} {middle:8.0f} ({low:.0f} to {high:.0f})",
                    flush=True,
                )


def percentile(values, level, draws=999) -> np.ndarray:
    """Percentile bootstrap of the mean over repetitions."""
    picked = np.random.default_rng(1).integers(0, len(values), (draws, len(values)))
    return np.quantile(values[picked].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])


def bootstrap_t(values, level, draws=999) -> tuple[float, float]:
    """Studentised bootstrap of the mean (Efron and Tibshirani, 12.5); a draw that repeats one value is infinitely far on its side."""
    n, middle = len(values), values.mean()
    drawn = values[np.random.default_rng(1).integers(0, n, (draws, n))]
    off, own = drawn.mean(axis=1) - middle, drawn.std(axis=1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(own > 0, off / own, np.where(off == 0, 0.0, np.copysign(np.inf, off)))
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    spread = values.std(ddof=1) / np.sqrt(n)
    return middle - high * spread, middle - low * spread


def hierarchical(runs, statistic, level, draws=300) -> np.ndarray:
    """Repetitions drawn with replacement, and inside each its requests in blocks: percentiles of the mean of `statistic`."""
    rng = np.random.default_rng(1)
    means = [
        np.mean([statistic(stats.blocks(runs[k], rng)) for k in rng.integers(0, len(runs), len(runs))])
        for _ in range(draws)
    ]
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def coverage(campaigns: int) -> None:
    print(
        f"\ncoverage of a 95 % interval for the mean logarithm over repetitions, {campaigns} each (median width, as a share of sigma)"
    )
    methods = {
        "Student t on logs": stats.mean_interval,
        "percentile bootstrap": percentile,
        "bootstrap-t": bootstrap_t,
    }
    for tail, name in ((np.inf, "log-normal"), (4.0, "t(4) tails")):
        for n in (2, 3, 5, 8, 12, 20):
            rng = np.random.default_rng(n)
            line = []
            for words, method in methods.items():
                draws = [noise(rng, n, 1, 1, tail).ravel() for _ in range(campaigns)]
                seen = [method(x, 0.95) for x in draws]
                covered = np.mean([low <= 0 <= high for low, high in seen])
                line.append(f"{words} {covered:.1%} ({np.median([high - low for low, high in seen]):.2f})")
            print(f"  {name}, n = {n}: {', '.join(line)}", flush=True)


def hierarchical_coverage(campaigns: int) -> None:
    print(f"\ncoverage of a 95 % interval for the mean of a run's median TTFT, 200 requests a run, {campaigns} each")
    for share, between in (("half", 0.03), ("a tenth", 0.09)):  # a run's median has a standard error of 0.03
        for n in (3, 5, 10):
            rng = np.random.default_rng(n)
            hits = plain = 0
            for _ in range(campaigns):
                runs = [np.exp(rng.normal(rng.normal(0, between), 0.34, 200)) for _ in range(n)]
                low, high = stats.mean_interval(np.array([np.log(np.median(r)) for r in runs]), 0.95)
                plain += low <= 0 <= high
                low, high = hierarchical(runs, lambda x: float(np.log(np.median(x))), 0.95)
                hits += low <= 0 <= high
            print(
                f"  {share} of the spread inside runs, n = {n}: Student t on logs {plain / campaigns:.1%}, "
                f"hierarchical bootstrap {hits / campaigns:.1%}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=300)
    parser.add_argument("--only", choices=("coverage", "alarms", "found"))
    words = parser.parse_args()
    campaigns, only = words.campaigns, words.only
    start = clock.monotonic_ns()
    if only in (None, "coverage"):
        coverage(max(2000, campaigns))
        hierarchical_coverage(max(400, campaigns))
    if only in (None, "alarms"):
        alarms(campaigns)
    if only in (None, "found"):
        found(campaigns)
    print(f"\n{(clock.monotonic_ns() - start) / clock.NS:.0f} s")


if __name__ == "__main__":
    main()
