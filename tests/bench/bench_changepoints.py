"""What the change points' penalty gives, by simulation: false changes, steps found, their place. `python -m tests.bench.bench_changepoints`."""

from __future__ import annotations

import sys

import numpy as np

from harness.judge.changepoints import change_points

SEED, NOISE, STEP, AT = 20261124, 0.01, 0.97, 60


def autocorrelated(chance: np.random.Generator, shape: tuple[int, int], f: float) -> np.ndarray:
    """AR(1) of unit variance."""
    z = chance.standard_normal((shape[0], shape[1] + 50))
    x = np.zeros_like(z)
    x[:, 0] = z[:, 0]
    for t in range(1, z.shape[1]):
        x[:, t] = f * x[:, t - 1] + np.sqrt(1 - f * f) * z[:, t]
    return x[:, 50:]


def series(unit: np.ndarray, step_at: int | None = None) -> np.ndarray:
    """100 tokens/s with 1 % noise; from `step_at` on 3 % less."""
    values = 100 * np.exp(NOISE * unit)
    if step_at is not None:
        values[:, step_at:] *= STEP
    return values


def share_with_change(values: np.ndarray, together: int = 1) -> float:
    return float(np.mean([bool(change_points(row.tolist(), series=together)) for row in values]))


def upper(share: float, n: int) -> str:
    """`0.4 % of 2,000 (at most 0.8 %)`: Wilson's upper limit at 97.5 %."""
    z = 1.96
    limit = (share + z * z / (2 * n) + z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return f"{share * 100:.1f} % of {n:,} (97.5 % limit {limit * 100:.1f} %)"


def false_changes(chance: np.random.Generator) -> float:
    print("false change in a series without one:")
    at_100 = 1.0
    for nights, runs in ((8, 2000), (20, 2000), (50, 2000), (100, 2000), (300, 500)):
        share = share_with_change(series(chance.standard_normal((runs, nights))))
        at_100 = share if nights == 100 else at_100
        print(f"  white noise, {nights} nights: {upper(share, runs)}")
    for f in (0.3, 0.5, 0.7):
        share = share_with_change(series(autocorrelated(chance, (1000, 100), f)))
        print(f"  autocorrelation {f}, 100 nights: {upper(share, 1000)}")
    heavy = chance.standard_t(4, (1000, 100)) / np.sqrt(2)
    print(f"  heavy tails (Student's t, 4 degrees), 100 nights: {upper(share_with_change(series(heavy)), 1000)}")
    odd = chance.standard_normal((1000, 100))
    odd[np.arange(1000)[:, None], chance.integers(0, 100, (1000, 3))] -= 10
    print(f"  white noise with 3 odd nights of -10 %, 100 nights: {upper(share_with_change(series(odd)), 1000)}")
    family = series(chance.standard_normal((3000, 100)))
    any_of = np.mean([share_with_change(family[i : i + 30], 30) > 0 for i in range(0, 3000, 30)])
    print(f"  any of 30 white series looked at together, 100 nights: {upper(float(any_of), 100)}")
    return at_100


def steps_found(chance: np.random.Generator) -> float:
    print(f"a step of -3 % at night {AT} of 100, 1 % noise:")
    near = 0.0
    for name, unit, together in (
        ("white noise", chance.standard_normal((1000, 100)), 1),
        ("white noise, 30 series together", chance.standard_normal((1000, 100)), 30),
        ("autocorrelation 0.3", autocorrelated(chance, (1000, 100), 0.3), 1),
        ("autocorrelation 0.5", autocorrelated(chance, (1000, 100), 0.5), 1),
    ):
        off = []
        extra = 0
        for row in series(unit, AT):
            found = change_points(row.tolist(), series=together)
            extra += len(found) > 1
            off.append(min((abs(c.index - AT) for c in found), default=100))
        within = [float(np.mean(np.array(off) <= n)) for n in (0, 1, 2)]
        near = within[2] if name == "white noise" else near
        print(f"  {name}: exact {within[0] * 100:.1f} %, within 1 night {within[1] * 100:.1f} %, within 2 {within[2] * 100:.1f} %, further changes in {extra / 10:.1f} %")  # fmt: skip
    print("nights until that step is first seen (60 nights of 1 % noise before it), 500 series:")
    for together in (1, 30):
        unit = chance.standard_normal((500, AT + 10))
        shares = []
        for after in (1, 2, 3, 4, 5, 7):
            rows = series(unit, AT)[:, : AT + after]
            shares.append(f"{after}: {share_with_change(rows, together) * 100:.0f} %")
        print(f"  {together} series together: {', '.join(shares)}")
    return near


def main() -> None:
    chance = np.random.default_rng(SEED)
    false, near = false_changes(chance), steps_found(chance)
    print(
        f"false change in 100 nights of white noise {false * 100:.1f} % (must be <= 5 %), step within 2 nights {near * 100:.1f} %"
    )
    sys.exit(not (false <= 0.05 and near >= 0.95))


if __name__ == "__main__":
    main()
