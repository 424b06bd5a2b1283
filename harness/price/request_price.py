"""What one request to a hosted API can cost at most, before it is sent, and what it is counted as once it has ended.

    worst = worst_usd(bytes of its body as prompt tokens, tokens asked for x overrun + slack), at the dearest service that may apply

A prompt has at most as many tokens as its body has bytes. Servers were seen to go on beyond `max_tokens` until somebody hangs up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, Tokens, bill, worst_usd
from harness.price.hosted_service import service_price
from harness.price.sent_bill import free_by, is_settled
from harness.records import Outcome, SentRequest

UNIT_USD = Decimal("1e-12")  # what is counted is a whole number of them, rounded up: its sums are exact
_WITH_WRITES = 6  # parts of a request's usage that tells of cache writes


@dataclass(frozen=True, slots=True)
class RequestPrice:
    """`prices`: every price that may be billed: that of the service asked for, and the standard one where the API may fall back to it.
    `unbilled_statuses`: what the user declares."""

    ref: PriceRef
    prices: tuple[HostedPrice, ...]
    service: str | None = None
    unbilled_statuses: Collection[int] = ()

    def worst_usd(self, prompt_tokens: int, output_tokens: int) -> Decimal:
        return _up(max(worst_usd(price, prompt_tokens, output_tokens) for price in self.prices))

    def spent_usd(self, sent: SentRequest, worst: Decimal) -> tuple[Decimal, bool]:
        """(what a request that has ended counts as, whether that is known): its usage, nothing where it is known not to be billed, else
        its worst case. More than the worst case only where usage says so."""
        if free_by(self.ref, self.service, sent) is not None or (
            sent.outcome == Outcome.HTTP_ERROR and sent.http_status in self.unbilled_statuses
        ):
            return Decimal(0), True
        if sent.usage is None or not is_settled(sent):
            return max(worst, self._of_usage(sent.usage)) if sent.usage is not None else worst, False
        return self._of_usage(sent.usage), True

    def _of_usage(self, usage: tuple[int, ...]) -> Decimal:
        """At the dearest price. Where usage is silent of cache writes, and they cost more than fresh tokens, all that was not read was."""
        t = Tokens(*usage)
        if min(t) < 0 or t.cached > t.prompt or t.reasoning > t.output:
            return self.worst_usd(max(0, t.prompt), max(0, t.output))
        ways = [t]
        if len(usage) < _WITH_WRITES:
            ways += [t._replace(written_5m=t.prompt - t.cached), t._replace(written_1h=t.prompt - t.cached)]
        return _up(max(bill(price, [way]).total_usd for price in self.prices for way in ways))


def _up(usd: Decimal) -> Decimal:
    return usd.quantize(UNIT_USD, ROUND_CEILING)


def request_price(ref: PriceRef, at: datetime, service: str | None, unbilled: Collection[int] = ()) -> RequestPrice:
    """Raises ConfigError: a price or a service that the price book does not have."""
    prices = [service_price(ref, at, service)]
    if service is not None:
        prices.append(service_price(ref, at, None))
    return RequestPrice(ref, tuple(prices), service, unbilled)


def price_at(provider: str | None, model: str, at: datetime, unbilled: Collection[int] = ()) -> RequestPrice | None:
    """What a provider's list asks for a request; None where the model has no price. `unbilled`: statuses of requests that cost nothing."""
    if provider is None:
        return None
    try:
        return request_price(PriceRef(provider=provider, model=model), at, None, unbilled)
    except ConfigError:
        return None
