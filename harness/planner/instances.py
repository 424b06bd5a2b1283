"""The cheapest fleet of machines from the price table for a rate of requests: one type, or a mix by integer programme.

Capacities are measured ones where the user has them, else a roofline estimate, marked as one. A price that is not published is
not guessed: that purchase is left out and said so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from harness.base.errors import ConfigError, nearest
from harness.base.quantities import (
    HOURS_PER_MONTH,
    Number,
    above_zero,
    as_fraction,
    exact_above_zero,
    exact_share,
    usd,
    whole,
)
from harness.config.model.shape import ModelShape
from harness.planner.hybrid import spot_usd_per_hour
from harness.planner.roofline import Shape, best_estimate
from harness.price.prices import Instance, stale_after_days


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """How spot capacity behaves. lost_hours: cold start plus lost work at each interruption. unavailable: share of hours."""

    interruptions_per_hour: Number = 0.05
    lost_hours: Number = 0.25
    unavailable: Number = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to buy one machine. rps: of the whole instance at the SLO, before headroom. basis: measured | estimate."""

    name: str
    purchase: str  # on-demand | spot | commitment
    gpu: str
    usd_per_hour: Decimal
    rps: float
    basis: str
    detail: str
    as_of: str

    @property
    def stale_after_days(self) -> int:
        return stale_after_days(self.name, self.purchase)


@dataclass(frozen=True, slots=True)
class Rejected:
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A fleet: how many of each candidate. usd_per_1000_requests: at the asked rate, all hours at that rate."""

    machines: tuple[tuple[Candidate, int], ...]
    usd_per_hour: Decimal
    usd_per_month: Decimal
    usd_per_1000_requests: Decimal
    usable_rps: float
    utilisation: float


def _by_full_name(by_name: Mapping[str, Number], table: Sequence[Instance], what: str) -> dict[str, Number]:
    """Keys `instance` or `provider/instance` as the full name. Raises ConfigError: unknown (nearest named) or not unique."""
    full: dict[str, Number] = {}
    for key, value in by_name.items():
        names = [m.full_name for m in table if key in {m.full_name, m.name}]
        if not names:
            known = [n for m in table for n in (m.full_name, m.name)]
            raise ConfigError(f"{what}: no such instance", key, nearest(key, known, "see `harness prices show`"))
        if len(names) > 1:
            raise ConfigError(f"{what}: instance name is not unique", key, f"say which: {', '.join(names)}")
        full[names[0]] = value
    return full


def _capacity(
    machine: Instance, measured: Mapping[str, Number], model: ModelShape | None, shape: Shape | None
) -> tuple[float, str, str] | str:
    """(rps, basis, detail), or why there is none."""
    if machine.full_name in measured:
        rate = above_zero(measured[machine.full_name], f"measured rate of {machine.full_name} (rps)")
        return rate, "measured", ""
    if model is None or shape is None:
        return "not measured, and no model and shape to estimate from"
    if machine.gpu_mem_gb_each is None or machine.gpu_mem_bw_gb_per_s_each is None:
        return "no memory or bandwidth in the price table"
    guess = best_estimate(
        model,
        shape,
        machine.gpu_model,
        machine.gpu_count,
        memory_gb_each=machine.gpu_mem_gb_each,
        bandwidth_gb_per_s_each=machine.gpu_mem_bw_gb_per_s_each,
    )
    return guess if isinstance(guess, str) else (guess[0], "estimate", guess[1])


def candidates(
    *,
    measured: Mapping[str, Number] | None = None,
    model: ModelShape | None = None,
    shape: Shape | None = None,
    spot: Spot | None = None,
    commitments: Mapping[str, Number] | None = None,
    provider: str | None = None,
    table: Sequence[Instance],
) -> tuple[tuple[Candidate, ...], tuple[Rejected, ...]]:
    """Ways to buy the machines of `table` (`prices.instances` at a date) that can serve the model, and those that cannot with the reason.

    measured: rps of the whole instance at the SLO, by name. commitments: USD per hour that the user was offered, by name (the
    price table has no such rates). spot: None leaves spot out. Raises ConfigError for unknown names and bad numbers.
    """
    providers = {m.provider for m in table}
    if provider is not None and provider not in providers:
        raise ConfigError("no such provider", provider, nearest(provider, providers, ", ".join(sorted(providers))))
    rates = _by_full_name(measured or {}, table, "measured")
    committed = _by_full_name(commitments or {}, table, "commitment")
    ways: list[Candidate] = []
    left_out: list[Rejected] = []
    for machine in table:
        if provider is not None and machine.provider != provider:
            continue
        capacity = _capacity(machine, rates, model, shape)
        if isinstance(capacity, str):
            left_out.append(Rejected(machine.full_name, capacity))
            continue
        rps, basis, detail = capacity
        prices: list[tuple[str, Decimal, str]] = []
        if machine.usd_per_hour is not None:
            prices.append(("on-demand", machine.usd_per_hour, machine.as_of))
        else:
            left_out.append(Rejected(f"{machine.full_name}, on demand", "no on-demand price is published"))
        if machine.full_name in committed:
            price = usd(committed[machine.full_name], f"commitment of {machine.full_name} (USD per hour)")
            prices.append(("commitment", price, "given"))
        if spot is not None and machine.spot_usd is not None and machine.usd_per_hour is not None:
            useful = spot_usd_per_hour(
                machine.spot_usd,
                machine.usd_per_hour,
                interruptions_per_hour=spot.interruptions_per_hour,
                lost_hours=spot.lost_hours,
                unavailable=spot.unavailable,
            )
            prices.append(("spot", useful, machine.as_of))
        gpu = f"{machine.gpu_count} x {machine.gpu_model}"
        ways += [Candidate(machine.full_name, kind, gpu, price, rps, basis, detail, at) for kind, price, at in prices]
    return tuple(ways), tuple(left_out)


def _choice(picked: Sequence[tuple[Candidate, int]], rate: Fraction, headroom: Fraction) -> Choice:
    total = sum((c.usd_per_hour * n for c, n in picked), Decimal(0))
    full = sum(as_fraction(c.rps) * n for c, n in picked)
    per_1000 = total * 1000 / 3600 * rate.denominator / rate.numerator
    return Choice(tuple(picked), total, total * HOURS_PER_MONTH, per_1000, float(full * headroom), float(rate / full))


def _demand(rps: Number, headroom: Number) -> tuple[Fraction, Fraction]:
    return exact_above_zero(rps, "rate (rps)"), exact_share(headroom, "headroom")


def _limits(at_most: Mapping[str, int] | None, options: Sequence[Candidate]) -> dict[str, int]:
    """`at_most` by full name. Raises ConfigError for a machine that is not among the candidates (the nearest are named)."""
    limits: dict[str, int] = {}
    known = {c.name for c in options}
    for key, n in (at_most or {}).items():
        names = {name for name in known if key in {name, name.split("/", 1)[1]}}
        if len(names) != 1:
            raise ConfigError(
                "at most: not one of the candidates", key, nearest(key, sorted(known), "use provider/instance")
            )
        limits[names.pop()] = whole(n, f"at most of {key}")
    return limits


def single_type(
    options: Sequence[Candidate],
    rps: Number,
    *,
    headroom: Number = 0.7,
    spares: int = 1,
    at_most: Mapping[str, int] | None = None,
) -> tuple[Choice, ...]:
    """For each candidate the fleet ceil(rate / (headroom x rps)) + spares of it, cheapest first. Spot is never alone.

    A spot fleet can be taken away all at once, so it is offered in a mix only (`cheapest_mix`), above a base that stays.
    """
    rate, rho = _demand(rps, headroom)
    whole(spares, "spares")
    limits = _limits(at_most, options)
    counts = [(c, math.ceil(rate / (rho * as_fraction(c.rps))) + spares) for c in options if c.purchase != "spot"]
    fleets = [_choice([(c, n)], rate, rho) for c, n in counts if n <= limits.get(c.name, n)]
    return tuple(sorted(fleets, key=lambda choice: choice.usd_per_hour))


def serves(
    picked: Sequence[tuple[Candidate, int]], rps: Number, *, headroom: Number, spares: int, steady: Number
) -> bool:
    """True if the fleet serves `rps` with `spares` machines of its largest type gone, and a share `steady` of it without spot."""
    rate, rho = _demand(rps, headroom)
    used = [(c, n) for c, n in picked if n]
    if not used:
        return False
    largest = max(as_fraction(c.rps) for c, _ in used)
    full = sum(as_fraction(c.rps) * n for c, n in used) - spares * largest
    kept = sum(as_fraction(c.rps) * n for c, n in used if c.purchase != "spot")
    return rho * full >= rate and rho * kept >= exact_share(steady, "steady share", zero=True) * rate


def cheapest_mix(
    options: Sequence[Candidate],
    rps: Number,
    *,
    headroom: Number = 0.7,
    spares: int = 1,
    steady: Number = 0.5,
    at_most: Mapping[str, int] | None = None,
) -> Choice:
    """The cheapest mix of types (Melange, arXiv 2404.14527, has the idea), as an integer programme solved by HiGHS.

    minimise sum c n  with  headroom x (sum rps n - spares x largest rps used) >= rate, and non-spot machines alone carrying
    `steady` of the rate. at_most: how many of a machine are to be had, by full name. Raises ConfigError where nothing serves.
    """
    rate, rho = _demand(rps, headroom)
    whole(spares, "spares")
    base = exact_share(steady, "steady share", zero=True)
    limits = _limits(at_most, options)
    usable = [c for c in options if limits.get(c.name, 1) > 0]
    if not usable:
        raise ConfigError("no machine to choose from", f"{len(options)} candidates", "measure one, or give --model")
    tightened = Fraction(1)
    for _ in range(4):  # the solver works to 1e-6: check in exact arithmetic, and ask for a hair more if need be
        counts = _solve(usable, float(rate * tightened / rho), spares, float(base), limits)
        if counts is None:
            raise ConfigError(
                "no fleet can serve this", f"{float(rate):.6g} rps", "raise at_most, or allow more machines"
            )
        picked = [(c, n) for c, n in zip(usable, counts, strict=True) if n]
        if serves(picked, rate, headroom=rho, spares=spares, steady=base):
            return _choice(picked, rate, rho)
        tightened *= Fraction(1_000_001, 1_000_000)
    raise ConfigError("the solver found no exact answer", f"{float(rate):.6g} rps", "change the rate a little")


def _solve(
    usable: Sequence[Candidate], needed: float, spares: int, base: float, limits: Mapping[str, int]
) -> list[int] | None:
    """Counts per candidate, or None. Variables: n, u (type is used: 0 or 1), and z, the largest rps that is used."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    k = len(usable)
    rates = np.array([c.rps for c in usable])
    unit = max(needed, float(rates.max()))  # rates near 1: what the solver's tolerance is made for
    rates, needed = rates / unit, needed / unit
    alone = [math.ceil(needed / rate) + spares + 1 for rate in rates]  # more of a type than that buys nothing
    most = np.array([min(n, limits.get(c.name, n)) for c, n in zip(usable, alone, strict=True)])
    cost = np.concatenate([[float(c.usd_per_hour) for c in usable], np.zeros(k + 1)])
    rows = [np.concatenate([rates, np.zeros(k), [-float(spares)]])]
    low, high = [needed], [np.inf]
    steady = np.array([c.purchase != "spot" for c in usable])
    rows.append(np.concatenate([rates * steady, np.zeros(k + 1)]))
    low.append(base * needed)
    high.append(np.inf)
    for j in range(k):
        used, above = np.zeros(2 * k + 1), np.zeros(2 * k + 1)
        used[j], used[k + j] = 1, -most[j]  # n_j <= most_j u_j
        above[2 * k], above[k + j] = 1, -rates[j]  # z >= rps_j u_j
        rows += [used, above]
        low += [-np.inf, 0]
        high += [0, np.inf]
    for name, limit in limits.items():  # one machine bought in two ways is still one machine
        rows.append(np.concatenate([[float(c.name == name) for c in usable], np.zeros(k + 1)]))
        low.append(-np.inf)
        high.append(limit)
    result = milp(
        cost,
        integrality=np.concatenate([np.ones(2 * k), [0]]),
        bounds=Bounds(np.zeros(2 * k + 1), np.concatenate([most, np.ones(k), [rates.max()]])),
        constraints=LinearConstraint(np.array(rows), low, high),
        options={"mip_rel_gap": 0.0, "time_limit": 60},
    )
    return None if result.x is None or result.status != 0 else [round(value) for value in result.x[:k]]
