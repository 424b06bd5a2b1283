"""Which part of a machine's cost belongs to input tokens and which to output tokens.

It is a joint cost: a step reads the weights once for everything in it, so any split of that part is a convention. Here:

    step regression   seconds of a step = t0 + a x prefill tokens + b x decode sequences + k x KV tokens, none below 0
      direct          the shared t0 follows the direct costs
      incremental     input pays only what it adds, output carries t0; and the other way round: these are the bounds
    black box         $/request of >= 6 shapes = alpha i + beta o + gamma o (i + o/2) + delta i^2/2

Every split shares out the paid amount once: its parts add up to it, to the cent. (Publishing input and output costs that each carry
the whole machine, and adding them, charges it twice.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

import numpy as np

from harness.base.errors import ConfigError
from harness.base.stats import FloatArray, nnls
from harness.planner.attribution.step_log import WHOLE_SECONDS, Steps

_CENT = Decimal("0.01")
_NOISE = 0.05  # noise of a value, as a share of it; only its size against the clock's resolution matters
_BANDS = ((0.0, 0.0), (1.0, 4.0), (5.0, 16.0), (17.0, 64.0), (65.0, float("inf")))  # decode sequences in a step


@dataclass(frozen=True, slots=True)
class StepFit:
    """Seconds a step, a prefill token, a decode sequence and a KV token cost, and how well they explain what was measured.

    `r2` None: every row took the same time by construction. `unexplained`: share of the measured time that the fit does not reach
    (hiccups, other work on the machine); below 0 it overshoots. `residual_by_load`: mean of fitted/measured - 1 by decode sequences in
    a step. `left_out_error`: share by which the total time of each shape is missed by a fit to the other ones; empty for one shape.
    """

    t0_s: float
    prefill_s: float
    decode_s: float
    kv_s: float
    rows: int
    r2: float | None
    unexplained: float
    residual_by_load: Mapping[str, float]
    left_out_error: Mapping[str, float]
    timed_by: str
    warnings: tuple[str, ...]


def weighted_fit(x: FloatArray, y: FloatArray, resolution: float = 0.0) -> FloatArray:
    """`nnls` with each row weighted by its noise: a share of its value, and the clock's resolution."""
    weight = 1 / np.hypot(resolution, _NOISE * y)
    return nnls(x * weight[:, None], y * weight)


def left_out(shapes: Sequence[str], x: FloatArray, y: FloatArray, resolution: float = 0.0) -> dict[str, float]:
    """Total of each shape predicted from the others, as predicted/measured - 1."""
    names, label = sorted(set(shapes)), np.array(shapes)
    if len(names) < 2:
        return {}
    errors = {}
    for name in names:
        rest = label != name
        coefficients = weighted_fit(x[rest], y[rest], resolution)
        errors[name] = float(np.sum(x[~rest] @ coefficients) / np.sum(y[~rest]) - 1)
    return errors


def _design(steps: Steps) -> FloatArray:
    columns = [steps.steps, steps.prefill_tokens, steps.decode_seqs]
    if steps.kv_tokens is not None:
        columns.append(steps.kv_tokens)
    return np.column_stack(columns)


def _by_load(steps: Steps, relative: FloatArray) -> dict[str, float]:
    load = np.round(steps.decode_seqs / steps.steps)
    residuals = {}
    for low, high in _BANDS:
        here = (load >= low) & (load <= high)
        if here.any():
            name = f"{low:g}" if low == high else f"{low:g}+" if high == float("inf") else f"{low:g}-{high:g}"
            residuals[name] = float(np.mean(relative[here]))
    return residuals


def fit_steps(steps: Steps) -> StepFit:
    """Non-negative least squares of step times, weighted: noise grows with a step's length, and the few long prefill
    steps must not decide what the many decode steps cost. Raises ConfigError for times that are not positive numbers, or hold
    one phase only."""
    x, y = _design(steps), steps.seconds
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (y > 0).all()):
        raise ConfigError("step times are not usable", "a time that is 0, negative or not a number", "look at the log")
    if not steps.prefill_tokens.any() or not steps.decode_seqs.any():
        raise ConfigError(
            "steps of one kind only", "prefill or decode is missing", "log the server while it serves requests"
        )
    coefficients = weighted_fit(x, y, steps.resolution_s)
    fitted = x @ coefficients
    spread = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(np.sum((y - fitted) ** 2)) / spread if spread > 1e-12 * float(y @ y) else None
    warnings = []
    if steps.kv_tokens is None:
        warnings.append("KV cache use is not in the log: its cost is inside the one of decode sequences")
    if WHOLE_SECONDS in steps.timed_by:
        warnings.append("timed by whole seconds: rough, and wrong where the engine idles; use --no-async-scheduling")
    missed = float(np.median(np.abs(fitted / y - 1)))
    if missed > 0.2:
        warnings.append(f"half of the steps are missed by more than {missed:.0%}: do not rely on the split")
    if abs(1 - float(fitted.sum() / y.sum())) > 0.1:
        warnings.append(
            f"{1 - float(fitted.sum() / y.sum()):.0%} of the measured time is not explained by the steps' contents"
        )
    t0, a, b, *k = (float(c) for c in coefficients)
    return StepFit(
        t0_s=t0,
        prefill_s=a,
        decode_s=b,
        kv_s=k[0] if k else 0.0,
        rows=steps.count,
        r2=r2,
        unexplained=1 - float(fitted.sum() / y.sum()),
        residual_by_load=_by_load(steps, fitted / y - 1),
        left_out_error=left_out(steps.shapes, x, y, steps.resolution_s),
        timed_by=steps.timed_by,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the engine's busy time; `input_share + cached_share + output_share` = 1 in each convention."""

    convention: str
    input_share: float  # prompt tokens that were computed
    cached_share: float  # prompt tokens found in the prefix cache
    output_share: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Tokens of the requests that the paid time served: computed input, input from the prefix cache, output."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int


def step_shares(fit: StepFit, steps: Steps, cached_of_kv: float = 0.0) -> tuple[Shares, ...]:
    """Direct split, and the two incremental ones (the bounds of any split), of the time that `fit` explains.

    `cached_of_kv`: share of the KV tokens read that came from the prefix cache (see `cached_share_of_kv`). Reading them while
    decoding is all that a cached token costs; the rest of the KV reads belongs to the output, which causes them.
    """
    if not 0 <= cached_of_kv <= 1:
        raise ConfigError("share of cached KV out of range", cached_of_kv, "a share between 0 and 1")
    count, prefill, decode, kv_tokens = steps.every_step
    shared, given, kv = fit.t0_s * count, fit.prefill_s * prefill, fit.kv_s * kv_tokens
    cached = kv * cached_of_kv
    written = fit.decode_s * decode + kv - cached
    direct, total = given + cached + written, given + cached + written + shared
    if direct <= 0 or total <= 0:
        raise ConfigError("the fit explains no time", fit, "log more steps, at several loads")
    return (
        Shares("direct: the shared step time follows direct costs", given / direct, cached / direct, written / direct),
        Shares("incremental: output carries the shared step time", given / total, cached / total, (written + shared) / total),
        Shares("incremental: input carries the shared step time", (given + shared) / total, cached / total, written / total),
    )  # fmt: skip


def cached_share_of_kv(usage: Sequence[tuple[int, ...]]) -> float:
    """Share of the KV tokens read in decode steps that came from the prefix cache; `usage` as in RunSummary.usage.

    A request of i input and o output tokens reads about o x (i + o/2) of them, o x cached from the cache.
    """
    read = sum(o * (i + o / 2) for i, _, o, *_ in usage)
    return sum(o * c for _, c, o, *_ in usage) / read if read else 0.0


@dataclass(frozen=True, slots=True)
class CostSplit:
    """A paid amount shared out; the three amounts add up to `paid_usd` exactly, in cents. $/M None: no such tokens."""

    method: str
    paid_usd: Decimal
    input_usd: Decimal
    cached_usd: Decimal
    output_usd: Decimal
    input_usd_per_million: Decimal | None
    cached_usd_per_million: Decimal | None
    output_usd_per_million: Decimal | None
    price_ratio: Decimal | None  # output over computed input


def _per_million(usd: Decimal, tokens: int) -> Decimal | None:
    return usd / tokens * 1_000_000 if tokens else None


def split_paid(paid_usd: Decimal, shares: Shares, traffic: Traffic) -> CostSplit:
    """Dollars by `shares`. Unit prices come from unrounded amounts; output takes the cent that rounding leaves.

    Raises ConfigError for an amount that is not a number or below 0, and for shares that do not add up to 1.
    """
    if not paid_usd.is_finite() or paid_usd < 0:
        raise ConfigError("paid amount is not an amount", paid_usd, "dollars, 0 or more")
    parts = [Decimal(repr(s)) for s in (shares.input_share, shares.cached_share, shares.output_share)]
    if any(p < 0 for p in parts) or abs(sum(parts, Decimal(0)) - 1) > Decimal("1e-9"):
        raise ConfigError("shares do not add up to the whole", shares, "input, cached and output share sum to 1")
    exact = [paid_usd * p for p in parts]
    cents = [e.quantize(_CENT, ROUND_DOWN) for e in exact[:2]]  # rounded down, so that the rest is never below 0
    tokens = (traffic.input_tokens, traffic.cached_tokens, traffic.output_tokens)
    given, cached, written = (_per_million(e, t) for e, t in zip(exact, tokens, strict=True))
    ratio = written / given if given and written is not None else None
    paid = paid_usd.quantize(_CENT)
    return CostSplit(
        method=shares.convention,
        paid_usd=paid,
        input_usd=cents[0],
        cached_usd=cents[1],
        output_usd=paid - cents[0] - cents[1],
        input_usd_per_million=given,
        cached_usd_per_million=cached,
        output_usd_per_million=written,
        price_ratio=ratio,
    )
