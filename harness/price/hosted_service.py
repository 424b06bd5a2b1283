"""Which service of a hosted API a price is for (standard, flex, priority, batch ..), and when its replies are promised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, find_price, find_variant

_STANDARD = frozenset((None, "", "auto", "default", "standard", "standard_only", "on_demand"))
_AT_THE_STANDARD_PRICE: Mapping[tuple[str, str], str] = {
    ("groq", "flex"): "the price of on_demand: console.groq.com/docs/flex-processing, 2026-11-26",
}
_WINDOWS: Mapping[tuple[str, str], str] = {
    (
        "anthropic",
        "batch",
    ): "24 hours, then it expires: platform.claude.com/docs/en/build-with-claude/batch-processing, 2026-11-26",
    (
        "azure",
        "batch",
    ): "24 hours: learn.microsoft.com/en-us/azure/foundry/reference/rest/batches-create-batch, 2026-11-26",
    (
        "openai",
        "batch",
    ): "24 hours, what is not done by then is cancelled: help.openai.com/en/articles/9197833-batch-api-faq, 2026-11-26",
    ("openrouter", "batch"): "24 hours: openrouter.ai/docs/batch-quickstart, 2026-11-26",
    (
        "azure",
        "flex",
    ): "none, while the request waits: learn.microsoft.com/azure/foundry/openai/how-to/flex-processing, 2026-11-26",
    ("openai", "flex"): "none, while the request waits, and 429 where there is no room: "
    "developers.openai.com/api/docs/guides/flex-processing, 2026-11-26",
    ("groq", "flex"): "none, 498 where there is no room: console.groq.com/docs/flex-processing, 2026-11-26",
}
_LATER = frozenset(("batch", "flex"))  # services that trade time for money


def service_asked(request: Mapping[str, object]) -> str | None:
    """The service that a target's `request` fields ask for; None: the standard one."""
    asked = [request.get("service_tier"), "fast" if request.get("speed") == "fast" else None]
    return next((str(word) for word in asked if word not in _STANDARD), None)


def service_price(ref: PriceRef, at: datetime, service: str | None) -> HostedPrice:
    """The price of `ref` for a service, in force at `at`: a declared price is taken for the service's own.

    Raises ConfigError: a service that the price book does not have (the known ones are named), and what `find_price` raises.
    """
    if service in _STANDARD or service is None:
        return find_price(ref, at)
    same = _AT_THE_STANDARD_PRICE.get((ref.provider, service))
    if ref.has_dollars:
        same = "the declared price is taken for this service's"
    price = find_variant(ref, at, service) if same is None else find_price(ref, at)
    words = {"service": service if same is None else f"{service}, {same}"}
    if service in _LATER:
        words["completion window"] = _WINDOWS.get((ref.provider, service), "not known here: see the vendor's page")
    name = price.name if same is None else f"{price.name} ({service})"
    return replace(price, name=name, inputs={**price.inputs, **words})
