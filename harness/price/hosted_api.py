"""Which hosted API a target or a run is, and its price: one rule for the spend cap, the forecast, a hybrid, a run's cost and a replayed day.

Its price is the first of these that there is:

    1. what its target declares (`price:`, its preset's mostly)
    2. the entry of cost.hosted that is for its model at the provider's own address
    3. the price book's entry of its model for the provider at its address
    4. where no provider of the book is at its address: the entry of cost.hosted for its model that gives its own dollars

A gateway's address and a deployment's name say nothing of whose tokens are sold there: a list price of cost.hosted is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from genai_prices import data_snapshot

from harness.base.errors import ConfigError
from harness.config.experiment import of_run
from harness.config.price_ref import PriceRef
from harness.config.target import TargetSpec
from harness.price.hosted import HostedPrice, book_model, find_price, is_by_tokens, same_model
from harness.price.hosted_service import service_asked, service_price
from harness.price.provider import providers_at
from harness.records import RunSummary, target_config


@dataclass(frozen=True, slots=True)
class HostedApi:
    """A hosted API that requests for `model` go to. `ref`: its price; None: nobody knows it. `service`: what its requests ask for, None
    the standard one. `is_at`: whether the API of a provider, by its id, is at the target's address; no provider's where the target
    declares its price."""

    model: str
    ref: PriceRef | None
    service: str | None
    is_at: Callable[[str], bool] = field(repr=False, compare=False)

    def is_of(self, ref: PriceRef) -> bool:
        """Whether a price is this API's: its own, or that of its model at the provider's address."""
        if self.ref is not None and self.ref.name == ref.name:
            return True
        return same_model(self.model, ref.model) and self.is_at(ref.provider)

    def price(self, ref: PriceRef, at: datetime) -> HostedPrice:
        """What `ref` asks at `at` for such requests: this API's own for the service that they ask for, any other for the standard one.
        Raises ConfigError: not in the price book."""
        return service_price(ref, at, self.service if self.is_of(ref) else None)


def api_of(target: TargetSpec, listed: Sequence[PriceRef]) -> HostedApi | None:
    """The API that a target of an experiment is; None where it is no hosted one. `listed`: the experiment's cost.hosted."""
    if target.kind != "hosted":
        return None
    return _api(target.name, target.url or "", target.model, target.price, target.request, listed)


def api_of_run(summary: RunSummary) -> HostedApi | None:
    """The API that a run was against; None where it was against no hosted one. Of a hybrid: of its `hosted_side`. Raises StoreError: a
    config that cannot be read."""
    if summary.target_kind != "hosted":
        return None
    return api_in(summary.config, summary.cell.target, summary.run_id, summary.model)


def api_in(config: Mapping[str, Any], name: str, run_id: str, model: str = "") -> HostedApi:
    """The hosted API that target `name` of a stored run's config is. `model`: where the config names none. Raises StoreError."""
    target = target_config(config, name)
    declared = target.get("price")
    return _api(
        name,
        str(target.get("url") or ""),
        str(target.get("model") or model),
        None if declared is None else of_run(PriceRef, declared, run_id),
        target.get("request") or {},
        [of_run(PriceRef, one, run_id) for one in (config.get("cost") or {}).get("hosted") or ()],
    )


def _api(
    name: str, url: str, model: str, declared: PriceRef | None, request: Mapping[str, Any], listed: Iterable[PriceRef]
) -> HostedApi:
    service = service_asked(request)
    if declared is not None:
        return HostedApi(model, declared, service, lambda _: False)
    is_at = partial(_is_at, name, url)
    same = [ref for ref in listed if same_model(model, ref.model)]
    ref = next((ref for ref in same if is_at(ref.provider)), None) or _in_the_book(url, model)
    if ref is None and not providers_at(url):
        ref = next((ref for ref in same if ref.has_dollars), None)
    return HostedApi(model, ref, service, is_at)


def _is_at(name: str, url: str, provider_id: str) -> bool:
    """By the book's address of the provider; of one that it does not know by a part of the host's name, or the target's own."""
    provider = data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, provider_id)
    if provider is not None:
        return provider.id in providers_at(url)
    host = url.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    return provider_id.lower() in {name.lower(), host, *host.split(".")}


@lru_cache(maxsize=1024)
def _in_the_book(url: str, model: str) -> PriceRef | None:
    for provider in providers_at(url) if model.strip() else ():
        ref = PriceRef(provider=provider, model=model)
        with suppress(ConfigError):
            if is_by_tokens(book_model(ref)[1]):
                return ref
    return None


# ---------------------------------------------------------------- of a run


def is_of(ref: PriceRef, summary: RunSummary) -> bool:
    """Whether a run was against the API that a price is of; one against a server of ours never was."""
    api = api_of_run(summary)
    return api is not None and api.is_of(ref)


def hosted_side(summary: RunSummary) -> RunSummary:
    """A hybrid's run as one of its hosted side's requests alone; any other run as it is."""
    if len(summary.sides) < 2:
        return summary
    side = summary.sides[1]
    return replace(
        summary,
        target_kind="hosted",
        cell=replace(summary.cell, target=side.name),
        model=str(target_config(summary.config, side.name).get("model", "")),
        usage=side.usage,
        sent=side.sent,
        sides=(),
    )


def prices_of_run(
    summary: RunSummary, refs: Sequence[PriceRef], at: datetime
) -> tuple[list[tuple[PriceRef, HostedPrice]], str | None]:
    """The prices that a run's requests are billed at, in force at `at`: that of the very API that it was against, for the service that
    it asks for, and `refs`; and why its own is not among them: a run that was paid is still a run. Raises ConfigError of `refs` alone."""
    api = api_of_run(summary)
    if api is None:
        return [(ref, find_price(ref, at)) for ref in refs], None
    prices, lacking = [], None
    if api.ref is not None:
        try:
            prices.append((api.ref, api.price(api.ref, at)))
        except ConfigError as error:
            lacking = f"not billed at its own API: {error.what}: {error.value}; {error.advice}"
    others = [ref for ref in refs if api.ref is None or ref.name != api.ref.name]
    return [*prices, *((ref, api.price(ref, at)) for ref in others)], lacking
