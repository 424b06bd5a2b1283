"""Which prompt tokens a hosted API reads from its own cache, and which it writes there: measured at that API, declared, or none.

Our own server's prefix cache says nothing of a hosted API's: other minimum prefix, other life, other neighbours. So `cached` in the
usage of a run counts only where the run was against the very API that the price is of; for the tokens of a run elsewhere, the share that
this API read and wrote of the same workload's prompts where a run beside it was against it, else what is declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, Tokens, bill, first_tier
from harness.price.hosted_api import is_of
from harness.records import LIST_PRICE, MEASURED, Bill, RunSummary

NONE_DECLARED = "none: no cached_input_tokens declared"
_LIVES = ("5 minutes", "an hour")
_BASES = {
    MEASURED: "measured: tokens and latency of a run against this API",
    LIST_PRICE: "list price: the tokens of a run elsewhere, nothing of it measured at this API",
}
_WITHOUT_WRITES = 4  # parts of a request's usage


@dataclass(frozen=True, slots=True)
class HostedCache:
    """What a hosted API's cache does with one request: so many tokens of its prompt read, and written for 5 minutes or an hour.

    `read_tokens` None: as the usage of each request says. `shares`: measured at that API, of a prompt's tokens read, written for 5 minutes
    and written for an hour; they stand in the place of the three numbers. `source` is printed beside the bill.
    """

    read_tokens: int | None
    write_5m_tokens: int
    write_1h_tokens: int
    source: str
    shares: tuple[Fraction, Fraction, Fraction] | None = None

    def tokens(self, usage: Sequence[tuple[int, ...]]) -> tuple[Tokens, ...]:
        """Each request as it is billed. A declared number is that of a common prefix: a shorter prompt has no more than itself."""
        return tuple(self._one(*one) for one in usage)

    def _one(self, prompt: int, seen: int, output: int, reasoning: int, *written: int) -> Tokens:
        if self.shares is not None:
            return Tokens(
                prompt, int(prompt * self.shares[0]), output, reasoning, *(int(prompt * s) for s in self.shares[1:])
            )
        if self.read_tokens is None and written:
            return Tokens(prompt, seen, output, reasoning, *written)
        read = seen if self.read_tokens is None else min(self.read_tokens, prompt)
        hour = min(self.write_1h_tokens, max(0, prompt - read))
        return Tokens(prompt, read, output, reasoning, min(self.write_5m_tokens, max(0, prompt - read - hour)), hour)


def cache_of(
    ref: PriceRef,
    summary: RunSummary | None = None,
    *,
    declared: int = 0,
    ratio: Decimal = Decimal(1),
    ours: int = 0,
    beside: Sequence[RunSummary] = (),
) -> HostedCache:
    """The cache to bill `ref` with: measured where `summary`, or a run of its workload `beside` it, is of a run against that API, else
    declared, else none.

    `declared`: tokens of a prompt that are declared elsewhere, where `ref` says nothing. `ratio`: the API's tokens over those that are
    declared. `ours`: tokens that the measured server found in its own cache, to be told where they are not billed.
    """
    writes = (round(ref.cache_write_5m_tokens * ratio), round(ref.cache_write_1h_tokens * ratio))
    if summary is not None and is_of(ref, summary):
        told = any(len(one) > _WITHOUT_WRITES for one in summary.usage)
        words = "" if told else _writes_words(writes)
        return HostedCache(None, *writes, f"as this API's own usage says, measured{words}")
    if summary is not None and (measured := _measured_beside(ref, summary, beside)) is not None:
        return measured
    wanted = declared if ref.cached_input_tokens is None else ref.cached_input_tokens
    if wanted or ref.cached_input_tokens is not None:
        read = round(wanted * ratio)
        return HostedCache(read, *writes, f"{read} of each prompt, declared{_writes_words(writes)}")
    ours = ours if summary is None else sum(u[1] for u in summary.usage)
    not_its = f"; the {ours} that the measured server found in its own cache are not this API's" if ours else ""
    return HostedCache(0, *writes, f"{NONE_DECLARED}{not_its}{_writes_words(writes)}")


def _measured_beside(ref: PriceRef, summary: RunSummary, beside: Sequence[RunSummary]) -> HostedCache | None:
    """What that API did with the prompts of the same workload, as shares of their tokens, over all runs against it."""
    runs = [
        run for run in beside
        if run.cell.workload == summary.cell.workload and run.verdict.state != "INVALID" and run.usage and is_of(ref, run)
    ]  # fmt: skip
    requests = [Tokens(*one) for run in runs for one in run.usage]
    prompts = sum(t.prompt for t in requests)
    if not prompts:
        return None
    counts = [sum(counted) for counted in zip(*((t.cached, t.written_5m, t.written_1h) for t in requests), strict=True)]
    read, five, hour = (Fraction(count, prompts) for count in counts)
    told = "".join(f", {float(s):.1%} written for {life}" for s, life in zip((five, hour), _LIVES, strict=True) if s)
    names = ", ".join(run.run_id for run in runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
    return HostedCache(
        0,
        0,
        0,
        f"{float(read):.1%} of each prompt read{told}, measured at this API by the usage of {names}",
        (read, five, hour),
    )


def _writes_words(writes: tuple[int, int]) -> str:
    lives = zip(writes, _LIVES, strict=True)
    return "".join(f"; {tokens} written for {life}, declared" for tokens, life in lives if tokens)


def unbilled_writes(price: HostedPrice, tokens: Sequence[Tokens]) -> str | None:
    """A warning where tokens come from a cache that charges for writes, and no write is in the bill; None elsewhere.

    The bound: every prompt token that was not read was written for 5 minutes, as a conversation that grows does.
    """
    write, fresh = (first_tier(getattr(price.model, key)) for key in ("cache_write_mtok", "input_mtok"))
    write = first_tier(price.model.cache_write_5m_mtok) or write
    read = sum(t.cached for t in tokens)
    if (
        not read
        or any(t.written_5m or t.written_1h for t in tokens)
        or write is None
        or fresh is None
        or write <= fresh
    ):
        return None
    most = bill(price, [t._replace(written_5m=t.prompt - t.cached) for t in tokens]).total_usd
    return (
        f"{price.name} charges for cache writes (${write} per million tokens) and none are in its bill of ${bill(price, tokens).total_usd:.4g}: "
        f"declare cache_write_5m_tokens; if all that was not read was written it is ${most:.4g}"
    )


@dataclass(frozen=True, slots=True)
class RunBill:
    """A run's requests at one hosted price. `inputs`: what the bill is made of; `warnings`: what is left out of it; `basis`: MEASURED
    where the run was against that API, else LIST_PRICE."""

    bill: Bill
    inputs: Mapping[str, str]
    warnings: tuple[str, ...]
    basis: str


def bill_of_run(ref: PriceRef, price: HostedPrice, summary: RunSummary, beside: Sequence[RunSummary] = ()) -> RunBill:
    """The bill of a run's requests with the API's own cache (`cache_of`). Raises ConfigError for usage that cannot be billed."""
    cache = cache_of(ref, summary, beside=beside)
    tokens = cache.tokens(summary.usage)
    run_bill = bill(price, tokens)
    basis = MEASURED if is_of(ref, summary) else LIST_PRICE
    inputs = {
        "run": summary.run_id,
        "basis": _BASES[basis],
        "requests": str(run_bill.requests),
        "prompt tokens": str(run_bill.input_tokens),
        "of them cached": str(run_bill.cached_tokens),
        "of them written to the cache": str(run_bill.written_tokens),
        "cached input": cache.source,
        "output tokens": str(run_bill.output_tokens),
        "of them reasoning": str(sum(t.reasoning for t in tokens)),
        **price.inputs,
    }
    warning = unbilled_writes(price, tokens)
    return RunBill(run_bill, inputs, () if warning is None else (warning,), basis)
