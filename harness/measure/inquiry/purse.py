"""What an inquiry may spend: the ledger of its key, as a run's, each request that might be billed reserved before it is sent.

    at most: replies x worst case of (the prompt and any template's words, the tokens asked for x overrun + slack)

A request that is refused as malformed counts nothing, for no model took it; one that fails otherwise counts its worst case.
"""

from __future__ import annotations

from decimal import Decimal

from harness.base import clock
from harness.base.errors import ConfigError
from harness.measure.spend import Budget, Lease, ledger_name, worst_of
from harness.price.ledger import ledger_dir, ledger_of
from harness.price.request_price import RequestPrice, price_at
from harness.records import Outcome, SentRequest

_MALFORMED = (400, 404, 405, 415, 422, 501)


class Purse:
    """One request at a time: `reserve`, send, `spent`."""

    def __init__(
        self, price: RequestPrice, each_usd: Decimal, cap_usd: Decimal, base_url: str, key: str | None
    ) -> None:
        """Raises StoreError: the ledger cannot be written."""
        folder = ledger_dir()
        name = ledger_name(folder, base_url, key)
        self._price, self._each_usd, self._cap_usd = price, each_usd, cap_usd
        self._ledger = ledger_of(folder, name)
        run = f"probe {clock.utc_stamp()}"
        self._lease = Lease(Budget(run, {"run": cap_usd}, {name: self._ledger}), name, run)
        self._day = ""

    def reserve(self) -> None:
        """Raises ConfigError: what is left does not cover it; StoreError."""
        day = self._lease.reserve(self._each_usd)
        if day is None:
            spent = f"${self._lease.spent_usd:.6f} of ${self._cap_usd:.6f} are spent, or may be"
            raise ConfigError(
                "no money is left for another question", spent, f"--max-usd {float(self._cap_usd) * 2:.6f}"
            )
        self._day = day

    def spent(self, status: int | None, tokens: tuple[int, int] | None = None, *, finished: bool = False) -> None:
        """It is over. `status`: None where no answer came; `tokens`: (prompt, output) by its usage."""
        usages: list[tuple[int, ...] | None] = [None]
        if tokens is not None:  # how much of it was reasoning makes a price at most dearer
            usages = [(tokens[0], 0, tokens[1], reasoning) for reasoning in (0, tokens[1])]
        outcome = Outcome.OK if status == 200 else Outcome.HTTP_ERROR if status is not None else Outcome.RESET
        usd = max(
            self._price.spent_usd(
                SentRequest(str(outcome), status, 0.0, 0.0, usage, 0, 0, tokens is not None, finished, False),
                self._each_usd,
            )[0]
            for usage in usages
        )
        self._lease.release(self._day, self._each_usd, usd)

    def close(self) -> None:
        self._lease.end()
        self._ledger.close()


def purse_for(
    provider: str | None,
    model: str,
    base_url: str,
    key: str | None,
    max_usd: Decimal | None,
    size: tuple[int, int, int],
) -> tuple[Purse | None, str]:
    """(the purse, what it may cost in words) of so many replies of at most (prompt, output) tokens: `size`; None where nobody knows a price.
    Raises ConfigError: that is more than `max_usd`, or not known; StoreError: a ledger that cannot be written."""
    replies, prompt, output = size
    price = price_at(provider, model, clock.utc_now(), _MALFORMED)
    asked = f"{replies} replies of {prompt} + {output} tokens"
    if price is None:
        if max_usd is not None:
            advice = f"leave out --max-usd: at most {asked}"
            raise ConfigError("no price of this model, so that --max-usd cannot be kept", model, advice)
        return None, f"at most {asked}: price not known"
    each = worst_of(price, prompt, output)
    most = replies * each
    if max_usd is not None and most > max_usd:
        raise ConfigError(
            "it might cost more than --max-usd", f"${most:.6f} for {asked}", f"--max-usd {float(most) * 1.01:.6f}"
        )
    purse = Purse(price, each, max_usd or most, base_url, key)
    return purse, f"at most {asked}: ${most:.6f} by list price of {provider}, overruns counted in"
