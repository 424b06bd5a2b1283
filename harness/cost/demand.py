"""Demand over time: requests/s in equal steps, from a named daily shape or the user's own file.

Nobody knows their utilisation; many know their traffic. So the curve is what is asked for, and utilisation is a result.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import data_dir, load_yaml
from harness.cost.quantities import Number, above_zero, at_least_zero, exact, nearest, share, whole
from harness.errors import ConfigError

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Demand:
    """`rps` is the mean rate of each step of `step_s` seconds; the curve is taken to repeat.

    peak_hour_to_mean: of the trace behind an averaged shape, whose own peak is lower; None if not known or not averaged.
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
    rps: list[Number] | tuple[Number, ...],
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
    rates = tuple(rate * factor for rate in demand.rps)
    return Demand(demand.name, rates, demand.step_s, demand.source, demand.peak_hour_to_mean)


def flat(mean_rps: Number) -> Demand:
    """The same rate at every hour of a day."""
    return curve("flat", [above_zero(mean_rps, "mean rate (rps)")] * 24, source="a steady rate")


def shaped(name: str, mean_rps: Number) -> Demand:
    """A named daily shape at a mean rate. Raises ConfigError: no such shape (the nearest are named)."""
    known = shapes()
    if name not in known:
        raise ConfigError("no such demand shape", name, nearest(name, known, f"known shapes: {', '.join(known)}"))
    found = known[name]
    day = curve(name, found["hourly"], source=found["source"], peak_hour_to_mean=found["peak_hour_to_mean"])
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
    """A curve from a CSV (a column `rps`, hourly) or YAML (a list, or rps: [..] with step_s, name, source). ConfigError."""
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
    unknown = set(data) - {"rps", "step_s", "name", "source"}
    if unknown:
        raise ConfigError(f"{path}: unknown key", ", ".join(sorted(unknown)), "keys: rps, step_s, name, source")
    return curve(
        str(data.get("name", path.stem)),
        data["rps"],
        step_s=data.get("step_s", HOUR_S),
        source=str(data.get("source", path.name)),
    )


def find_demand(spec: str, mean_rps: Number | None) -> Demand:
    """`flat`, a shape's name, or a file; `mean_rps` sets the size and is needed except for a file, which has its own."""
    path = Path(spec)
    if path.suffix.lower() in {".csv", ".yaml", ".yml"}:
        found = read_demand(path)
        return found if mean_rps is None else scaled(found, mean_rps)
    if mean_rps is None:
        raise ConfigError(f"demand {spec!r} is a shape without a size", "no mean rate", "add --mean-rps")
    return flat(mean_rps) if spec == "flat" else shaped(spec, mean_rps)


def coarsened(demand: Demand, steps: int, quantile: Number) -> Demand:
    """The curve in steps `steps` times longer, each at the `quantile` of the finer rates in it (1: their highest).

    A planner that decides hourly must carry the bursts inside the hour: D_q, not the hour's mean. Nearest-rank quantile.
    """
    whole(steps, "steps per step", least=1)
    q = share(quantile, "quantile", zero=True)
    if len(demand.rps) % steps:
        raise ConfigError("steps do not divide the curve", f"{len(demand.rps)} by {steps}", "choose a divisor")
    rates = []
    for start in range(0, len(demand.rps), steps):
        inside = sorted(demand.rps[start : start + steps])
        rates.append(inside[max(0, math.ceil(q * steps) - 1)])
    return Demand(f"{demand.name}, q{q:g}", tuple(rates), demand.step_s * steps, demand.source)


def burst_quantile_rps(mean_rps: Number, quantile: Number, *, dispersion: Number, window_s: Number) -> float:
    """The `quantile` of the rate over windows of `window_s` inside a step with this mean, when only its burstiness is known.

    `dispersion` is the index of dispersion of counts (variance / mean) at that window: 1 for Poisson; Azure's 2023 code trace
    has about 160 at 60 s. Counts are taken as gamma-distributed with that mean and variance (a model, not a measurement).
    """
    from scipy.special import gammaincinv

    mean = above_zero(mean_rps, "mean rate (rps)")
    window = above_zero(window_s, "window (s)")
    idc = above_zero(dispersion, "index of dispersion")
    q = exact(quantile, "quantile")
    if not 0 < q < 1:
        raise ConfigError("quantile is out of range", quantile, "give a number above 0 and below 1")
    return float(gammaincinv(mean * window / idc, float(q))) * idc / window
