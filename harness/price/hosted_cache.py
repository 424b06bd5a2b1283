"""Which prompt tokens a hosted API reads from its own cache, and which it writes there: measured at that API, declared, or none.

Our own server's prefix cache says nothing of a hosted API's: other minimum prefix, other life, other neighbours. So `cached` in the
usage of a run counts only where the run was against the very API that the price is of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from genai_prices import data_snapshot

from harness.config.price_ref import PriceRef
from harness.price.hosted import Bill, HostedPrice, Tokens, bill, first_tier, same_model
from harness.records import RunSummary

NONE_DECLARED = "none: no cached_input_tokens declared"


@dataclass(frozen=True, slots=True)
class HostedCache:
    """What a hosted API's cache does with one request: so many tokens of its prompt read, and written for 5 minutes or an hour.

    `read_tokens` None: as the usage of each request says. `source` is printed beside the bill.
    """

    read_tokens: int | None
    write_5m_tokens: int
    write_1h_tokens: int
    source: str

    def tokens(self, usage: Sequence[tuple[int, ...]]) -> tuple[Tokens, ...]:
        """Each request as it is billed. A declared number is that of a common prefix: a shorter prompt has no more than itself."""
        requests = []
        for prompt, seen, output, reasoning, *_ in usage:
            read = seen if self.read_tokens is None else min(self.read_tokens, prompt)
            hour = min(self.write_1h_tokens, max(0, prompt - read))
            requests.append(
                Tokens(prompt, read, output, reasoning, min(self.write_5m_tokens, max(0, prompt - read - hour)), hour)
            )
        return tuple(requests)


def cache_of(
    ref: PriceRef, summary: RunSummary | None = None, *, declared: int = 0, ratio: Decimal = Decimal(1), ours: int = 0
) -> HostedCache:
    """The cache to bill `ref` with: measured where `summary` is of a run against that API, else declared, else none.

    `declared`: tokens of a prompt that are declared elsewhere, where `ref` says nothing. `ratio`: the API's tokens over those that are
    declared. `ours`: tokens that the measured server found in its own cache, to be told where they are not billed.
    """
    writes = (round(ref.cache_write_5m_tokens * ratio), round(ref.cache_write_1h_tokens * ratio))
    if summary is not None and is_of(ref, summary):
        return HostedCache(None, *writes, f"as this API's own usage says, measured{_writes_words(writes)}")
    wanted = declared if ref.cached_input_tokens is None else ref.cached_input_tokens
    if wanted or ref.cached_input_tokens is not None:
        read = round(wanted * ratio)
        return HostedCache(read, *writes, f"{read} of each prompt, declared{_writes_words(writes)}")
    ours = ours if summary is None else sum(u[1] for u in summary.usage)
    not_its = f"; the {ours} that the measured server found in its own cache are not this API's" if ours else ""
    return HostedCache(0, *writes, f"{NONE_DECLARED}{not_its}{_writes_words(writes)}")


def _writes_words(writes: tuple[int, int]) -> str:
    lives = zip(writes, ("5 minutes", "an hour"), strict=True)
    return "".join(f"; {tokens} written for {life}, declared" for tokens, life in lives if tokens)


def is_of(ref: PriceRef, summary: RunSummary) -> bool:
    """Whether a run was against the API that a price is of: a hosted target of that model, at the provider's address."""
    if summary.target_kind != "hosted" or not same_model(summary.model, ref.model):
        return False
    targets = summary.config.get("targets", [])
    url = next((str(t.get("url") or "") for t in targets if t.get("name") == summary.cell.target), "")
    provider = data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, ref.provider)
    if provider is not None:
        return re.match(provider.api_pattern, url) is not None
    host = url.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    return ref.provider.lower() in {summary.cell.target.lower(), host, *host.split(".")}


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
    """A run's requests at one hosted price. `inputs`: what the bill is made of; `warnings`: what is left out of it."""

    bill: Bill
    inputs: Mapping[str, str]
    warnings: tuple[str, ...]


def bill_of_run(ref: PriceRef, price: HostedPrice, summary: RunSummary) -> RunBill:
    """The bill of a run's requests with the API's own cache (`cache_of`). Raises ConfigError for usage that cannot be billed."""
    cache = cache_of(ref, summary)
    tokens = cache.tokens(summary.usage)
    run_bill = bill(price, tokens)
    inputs = {
        "run": summary.run_id,
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
    return RunBill(run_bill, inputs, () if warning is None else (warning,))
