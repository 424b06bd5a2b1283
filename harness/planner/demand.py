"""Demand over time: requests/s in equal steps, from a named daily shape or the user's own file.

Nobody knows their utilisation; many know their traffic. So the curve is what is asked for, and utilisation is a result.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.base.documents import load_yaml
from harness.base.errors import ConfigError, nearest
from harness.base.files import data_dir
from harness.base.quantities import Number, above_zero, at_least_zero

HOUR_S = 3600.0
DAY_S = 86400.0
DAYS = 14  # of the traces behind the averaged shapes


@dataclass(frozen=True, slots=True)
class Demand:
    """`rps` is the mean rate of each step of `step_s` seconds; the curve is taken to repeat.

    peak_hour_to_mean: of the trace behind an averaged shape, whose own peak is lower; None if not known or not averaged. It
    concerns what stands still while days differ: a fixed fleet (`highest_rps`), replicas that are always on (`days_of`) and rate
    limits (`load_above`). An autoscaled fleet follows each hour, and its mean is the averaged day's.
    """

    name: str
    rps: tuple[float, ...]
    step_s: float
    source: str
    peak_hour_to_mean: float | None = None

    @property
    def mean_rps(self) -> float:
        return math.fsum(self.rps) / len(self.rps)

    @property
    def peak_rps(self) -> float:
        return max(self.rps)

    @property
    def peak_to_mean(self) -> float:
        return self.peak_rps / self.mean_rps

    @property
    def peak_factor(self) -> float:
        """Day-to-day variation: the trace's highest hour over the highest one here; 1 where nothing was averaged."""
        known = self.peak_hour_to_mean
        return 1.0 if known is None else max(1.0, known / self.peak_to_mean)

    @property
    def highest_rps(self) -> float:
        """The highest hour of the trace behind the curve: what a fixed fleet must carry."""
        known = self.peak_hour_to_mean
        return self.peak_rps if known is None else max(self.peak_rps, known * self.mean_rps)

    @property
    def hours(self) -> float:
        """Length of one cycle of the curve."""
        return len(self.rps) * self.step_s / HOUR_S

    @property
    def requests(self) -> float:
        """Requests of one cycle."""
        return math.fsum(self.rps) * self.step_s


def shapes_file() -> Path:
    return data_dir("configs") / "prices" / "demand_shapes.json"


def shapes() -> dict[str, dict[str, Any]]:
    """Named daily shapes: {name: {"hourly": 24 numbers whose mean is 1, "peak_hour_to_mean": .. | null}} and their source."""
    book = json.loads(shapes_file().read_text(encoding="utf-8"))
    return {name: {"source": book["source"], **shape} for name, shape in book["shapes"].items()}


def curve(
    name: str,
    rps: Sequence[Number],
    *,
    step_s: Number = HOUR_S,
    source: str = "",
    peak_hour_to_mean: float | None = None,
) -> Demand:
    """A checked curve. Raises ConfigError: no values, a negative or not finite one, no request at all."""
    if not rps:
        raise ConfigError(f"demand {name!r} has no values", "[]", "give one rate in requests/s per step")
    rates = tuple(at_least_zero(value, f"demand {name!r}, step {n}") for n, value in enumerate(rps))
    if not any(rates):
        raise ConfigError(f"demand {name!r} is 0 in every step", f"{len(rates)} steps", "there is nothing to serve")
    return Demand(name, rates, above_zero(step_s, f"demand {name!r}: step (s)"), source, peak_hour_to_mean)


def scaled(demand: Demand, mean_rps: Number) -> Demand:
    """The same shape at another mean rate."""
    factor = above_zero(mean_rps, "mean rate (rps)") / demand.mean_rps
    return replace(demand, rps=tuple(rate * factor for rate in demand.rps))


def flat(mean_rps: Number) -> Demand:
    """The same rate at every hour of a day."""
    return curve("flat", [above_zero(mean_rps, "mean rate (rps)")] * 24, source="a steady rate")


def shaped(name: str, mean_rps: Number) -> Demand:
    """A named daily shape at a mean rate. Raises ConfigError: no such shape (the nearest are named)."""
    known = shapes()
    if name not in known:
        raise ConfigError("no such demand shape", name, nearest(name, known, f"known shapes: {', '.join(known)}"))
    shape = known[name]
    day = curve(name, shape["hourly"], source=shape["source"], peak_hour_to_mean=shape["peak_hour_to_mean"])
    return scaled(day, mean_rps)


def _from_csv(path: Path) -> list[Number]:
    """The column `rps`, or the only (or last) column; a first row that is no number is a header."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].lstrip().startswith("#")]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    column = header.index("rps") if "rps" in header else len(header) - 1
    try:
        float(rows[0][column])
    except ValueError:
        rows = rows[1:]
    try:
        return [row[column].strip() for row in rows]
    except IndexError:
        raise ConfigError(f"{path}: a row is too short", f"column {column + 1}", "every row needs its rate") from None


def read_demand(path: Path) -> Demand:
    """A curve from a CSV (a column `rps`, hourly) or YAML (a list, or rps: [..] with step_s, name, source, peak_hour_to_mean). ConfigError."""
    try:
        if path.suffix.lower() == ".csv":
            return curve(path.stem, _from_csv(path), source=path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("demand file cannot be read", path, str(error)) from None
    data = load_yaml(path)
    if isinstance(data, list):
        data = {"rps": data}
    if not isinstance(data, dict) or not isinstance(data.get("rps"), list):
        raise ConfigError(f"{path}: not a demand curve", type(data).__name__, "give a list of rates, or rps: [..]")
    keys = ("rps", "step_s", "name", "source", "peak_hour_to_mean")
    if unknown := set(data) - set(keys):
        raise ConfigError(f"{path}: unknown key", ", ".join(sorted(unknown)), f"keys: {', '.join(keys)}")
    peak = data.get("peak_hour_to_mean")
    return curve(
        str(data.get("name", path.stem)),
        data["rps"],
        step_s=data.get("step_s", HOUR_S),
        source=str(data.get("source", path.name)),
        peak_hour_to_mean=None if peak is None else above_zero(peak, f"{path}: peak hour to mean"),
    )


def find_demand(spec: str, mean_rps: Number | None) -> Demand:
    """`flat`, a shape's name, or a file; `mean_rps` sets the size and is needed except for a file, which has its own."""
    path = Path(spec)
    if path.suffix.lower() in {".csv", ".yaml", ".yml"}:
        demand = read_demand(path)
        return demand if mean_rps is None else scaled(demand, mean_rps)
    if mean_rps is None:
        raise ConfigError(f"demand {spec!r} is a shape without a size", "no mean rate", "add --mean-rps")
    return flat(mean_rps) if spec == "flat" else shaped(spec, mean_rps)


# ---------------------------------------------------------------- what stands still while days differ


def _day_factors(spread: float) -> list[float]:
    """Days over their mean: lognormal with this sigma, at the middles of DAYS equal shares of probability."""
    raw = [math.exp(spread * NormalDist().inv_cdf((n + 0.5) / DAYS)) for n in range(DAYS)]
    return [day * DAYS / math.fsum(raw) for day in raw]


def days_of(demand: Demand) -> Demand:
    """The curve again and again, DAYS times, larger and smaller: the same mean, and the highest hour of the trace behind it.

    What a fixed number of replicas leaves over is convex in the rate, so an averaged day makes it too small. The days are taken
    as lognormal (a model: the traces are not here). Checked against two weeks of ServeGen m-large, where 7 of 32.26 rps are the
    best hybrid with 25.3 % of requests hosted and 9 are too few in 40 % of hours: here 7, 23 % and 39 %; the averaged day alone
    gives 8, 9.5 % and 50 %. A curve that averages nothing is returned as it is.
    """
    if demand.peak_factor < 1 + 1e-9:  # rounding
        return demand
    low, high = 0.0, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if max(_day_factors(middle)) < demand.peak_factor else (low, middle)
    days = _day_factors(high)
    order = [*range(0, DAYS, 2), *range(DAYS - 1, 0, -2)]  # up and down again: neighbours are alike
    return replace(demand, rps=tuple(rate * days[n] for n in order for rate in demand.rps), peak_hour_to_mean=None)


@dataclass(frozen=True, slots=True)
class Load:
    """What a rate limit sees of a demand: its highest rate, the mean rate of its busiest 24 hours, and of all time."""

    peak_rps: float
    day_rps: float
    mean_rps: float


def _busiest(rates: Sequence[float], step_s: float, window_s: float) -> float:
    """Requests in the fullest window of a repeating curve: it begins or ends at a step's edge."""
    cycle_s = len(rates) * step_s
    cycles, left = divmod(window_s, cycle_s)
    whole_steps, part_s = int(left // step_s), left % step_s
    most = 0.0
    for series in (rates, rates[::-1]):
        round_it = [*series, *series, series[0]]
        for start in range(len(rates)):
            end = start + whole_steps
            most = max(most, math.fsum(round_it[start:end]) * step_s + round_it[end] * part_s)
    return cycles * math.fsum(rates) * step_s + most


def load_above(demand: Demand, level_rps: float = 0.0) -> Load:
    """The load that is left over by what carries `level_rps` at all times; by nothing: all of it.

    The day is the curve's own busiest: how full the fullest day of the trace behind an averaged one is, is not known.
    """
    over = [max(rate - level_rps, 0.0) for rate in demand.rps]
    days = [max(rate - level_rps, 0.0) for rate in days_of(demand).rps]
    mean = math.fsum(days) / len(days)
    day = _busiest(over, demand.step_s, DAY_S) / DAY_S
    return Load(max(demand.highest_rps - level_rps, 0.0), max(day, mean), mean)
