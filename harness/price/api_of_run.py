"""Which hosted API a run was against, and at which prices its requests are billed: the API's own first, then those asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from genai_prices import data_snapshot

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, same_model
from harness.price.hosted_service import service_asked, service_price
from harness.records import RunSummary


def target_of(summary: RunSummary) -> Mapping[str, Any]:
    """The target's part of the run's config; empty where it is not there."""
    targets = summary.config.get("targets") or ()
    return next((t for t in targets if t.get("name") == summary.cell.target), {})


def declared_price(summary: RunSummary) -> PriceRef | None:
    """What the target's config (its preset, mostly) says that this API asks for its tokens."""
    price = target_of(summary).get("price") if summary.target_kind == "hosted" else None
    return None if price is None else PriceRef.model_validate(price)


def is_of(ref: PriceRef, summary: RunSummary) -> bool:
    """Whether a run was against the API that a price is of: the hosted target whose `price` it is; without one, a hosted target of that
    model at the provider's address. A gateway's address and a deployment's name say nothing: there the target's `price` does."""
    if summary.target_kind != "hosted":
        return False
    if (declared := declared_price(summary)) is not None:
        return declared.name == ref.name
    return same_model(summary.model, ref.model) and _is_at(ref.provider, summary)


def _is_at(provider_id: str, summary: RunSummary) -> bool:
    url = str(target_of(summary).get("url") or "")
    provider = data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, provider_id)
    if provider is not None:
        return re.match(provider.api_pattern, url) is not None
    host = url.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    return provider_id.lower() in {summary.cell.target.lower(), host, *host.split(".")}


def hosted_side(summary: RunSummary) -> RunSummary:
    """A hybrid's run as one of its hosted side's requests alone; any other run as it is."""
    if len(summary.sides) < 2:
        return summary
    side = summary.sides[1]
    half = replace(
        summary,
        target_kind="hosted",
        cell=replace(summary.cell, target=side.name),
        usage=side.usage,
        sent=side.sent,
        sides=(),
    )
    return replace(half, model=str(target_of(half).get("model", "")))


def price_of_api(summary: RunSummary) -> PriceRef | None:
    """The price of the very API that a hosted run was against: declared at the target or in `cost`, else the price book's for the
    provider at its address, where that has the model."""
    if summary.target_kind != "hosted":
        return None
    asked = [PriceRef.model_validate(one) for one in (summary.config.get("cost") or {}).get("hosted") or ()]
    found = declared_price(summary) or next((ref for ref in asked if is_of(ref, summary)), None)
    if found is not None:
        return found
    for provider in data_snapshot.get_snapshot().providers:
        if _is_at(provider.id, summary) and provider.find_model(summary.model) is not None:
            return PriceRef(provider=provider.id, model=summary.model)
    return None


def prices_of_run(
    summary: RunSummary, refs: Sequence[PriceRef], at: datetime
) -> tuple[list[tuple[PriceRef, HostedPrice]], str | None]:
    """The prices that a run's requests are billed at, in force at `at`: what its own target declares, for the service that it asks for,
    and `refs`; and why the target's own is not among them: a run that was paid is still a run. Raises ConfigError of `refs` alone."""
    own, lacking = declared_price(summary), None
    service = service_asked(target_of(summary).get("request") or {})
    prices = []
    if own is not None:
        try:
            prices.append((own, service_price(own, at, service)))
        except ConfigError as error:
            lacking = f"not billed at its own API: {error.what}: {error.value}; {error.advice}"
    listed = [ref for ref in refs if own is None or ref.name != own.name]
    return [*prices, *((r, service_price(r, at, service if is_of(r, summary) else None)) for r in listed)], lacking
