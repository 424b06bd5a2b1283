"""What a campaign may spend: which of its targets cost money, at which price, under which caps; a gate for each run at each key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import ConfigError
from harness.base.loopback import is_loopback
from harness.config.experiment import ExperimentSpec
from harness.config.target import TargetSpec
from harness.measure.settle import settle_left
from harness.measure.spend import Budget, Lease, SpendGate, ledger_name
from harness.price.hosted_api import api_of
from harness.price.ledger import Ledger, fingerprint, ledger_dir, ledger_of, ledgers
from harness.price.request_price import RequestPrice, request_price
from harness.records import OVERRUN_SLACK, OVERRUN_TIMES, Endpoint

BYTES_A_TOKEN = (
    16  # of a prompt at most, before its bytes are known: a word of ours, quotes and commas of a list of ids
)
BYTES_BESIDE = 1024  # of a request
WORST = (
    f"worst: no prompt has more tokens than bytes ({BYTES_A_TOKEN} a token planned + {BYTES_BESIDE}), no reply more than "
    f"{OVERRUN_TIMES} x max_tokens + {OVERRUN_SLACK}, all at the dearest tier, cache writes and reasoning too, + the fee per request"
)
EXPECTED = "expected: the plan's mean lengths at the list price, nothing cached"


def price_of_requests(spec: ExperimentSpec, target: TargetSpec) -> RequestPrice | None:
    """What a hosted target bills for a request; None where it is known that nobody pays: no hosted API, one on this machine without a
    price, a price of 0. Raises ConfigError: a price that is not known, or not there."""
    api = api_of(target, spec.cost.hosted)
    if api is None or api.ref is None:
        return None
    unbilled = spec.max_usd.unbilled_statuses if spec.max_usd else ()
    price = request_price(api.ref, clock.utc_now(), api.service, unbilled)
    return price if price.worst_usd(1_000_000, 1_000_000) else None


def lacks_price(spec: ExperimentSpec, target: TargetSpec) -> bool:
    """A hosted API of which nobody knows what it asks."""
    api = api_of(target, spec.cost.hosted)
    return api is not None and api.ref is None


def paid(spec: ExperimentSpec, used: Collection[str] | None = None) -> dict[str, RequestPrice]:
    """The targets, of those that are `used`, that cost money. Raises ConfigError: a hosted API elsewhere whose price nobody knows, so that nothing can be bounded."""
    prices: dict[str, RequestPrice] = {}
    for target in spec.targets:
        if used is not None and target.name not in used:
            continue
        price = price_of_requests(spec, target)
        if price is not None:
            prices[target.name] = price
        elif lacks_price(spec, target) and not is_loopback(target.url or ""):
            raise ConfigError(
                "no price of a hosted API is known: what it costs cannot be bounded",
                f"target {target.name}: {target.model}",
                "give the target a price: {provider: .., model: .., input_usd_per_million: .., output_usd_per_million: ..}; "
                "0 and 0 where nobody pays",
            )
    return prices


class Spending:
    """A campaign's budget; `ledgers` are opened once. Without caps or paid targets no gate.

    `used`: the targets that are measured here, all where it is left out: a box of a fleet has neither a cap nor a ledger.
    """

    def __init__(self, spec: ExperimentSpec, run: str, used: Collection[str] | None = None) -> None:
        """Raises ConfigError (a price), StoreError (a ledger that cannot be written)."""
        self._spec = spec
        self._prices = paid(spec, used) if spec.max_usd else {}
        self._budget: Budget | None = None
        self._said: list[str] = []
        if spec.max_usd and self._prices:
            self._folder = ledger_dir()
            fingerprint(self._folder, "")
            opened = {path.stem.removeprefix("key-"): Ledger(path) for path in ledgers(self._folder)}
            self._budget = Budget(run, spec.max_usd.caps, opened)
            for ledger in opened.values():
                settled, why = settle_left(ledger)
                self._said += [one.words for one in settled] + why

    @property
    def warnings(self) -> list[str]:
        """What became of the money of killed runs, and what of the ledgers cannot be read."""
        found = {} if self._budget is None else self._budget.ledgers
        return self._said + [
            f"the ledger {ledger.path} has {ledger.damaged} line(s) that cannot be read: they count for nothing"
            for ledger in found.values()
            if ledger.damaged
        ]

    def gate(self, name: str, endpoint: Endpoint, run_dir: Path, slots: int | None) -> SpendGate | None:
        """For one run at one target; None where it costs nothing, or nothing is bounded."""
        price = self._prices.get(name)
        if self._budget is None or price is None:
            return None
        key = ledger_name(self._folder, endpoint.base_url, endpoint.api_key)
        if key not in self._budget.ledgers:
            self._budget.add_ledger(key, ledger_of(self._folder, key))
        return SpendGate(Lease(self._budget, key, run_dir.name, str(run_dir.absolute())), price, slots)

    def close(self) -> None:
        for ledger in {} if self._budget is None else self._budget.ledgers.values():
            ledger.close()


class RunSpending:
    """The gates of one run, by target; what they came to."""

    def __init__(self, spending: Spending | None, run_dir: Path, slots: int | None) -> None:
        self._spending, self._run_dir, self._slots = spending, run_dir, slots
        self.gates: dict[str, SpendGate] = {}

    def gate(self, name: str, endpoint: Endpoint) -> SpendGate | None:
        if self._spending is None:
            return None
        if (
            name not in self.gates
            and (made := self._spending.gate(name, endpoint, self._run_dir, self._slots)) is not None
        ):
            self.gates[name] = made
        return self.gates.get(name)

    @property
    def stopped_by(self) -> str | None:
        """The cap that ended it."""
        return next((gate.stopped_by for gate in self.gates.values() if gate.stopped_by), None)

    @property
    def words(self) -> str:
        return "; ".join(f"{name}: {gate.words}" for name, gate in self.gates.items())

    def facts(self) -> Mapping[str, Any]:
        return {name: gate.facts() for name, gate in self.gates.items()}

    def close(self) -> None:
        """What is neither spent nor may be in flight is given back."""
        for gate in self.gates.values():
            gate.lease.give_back()


def worst_of_plan(price: RequestPrice, requests: int, prompt_tokens: int, output_tokens: int) -> Decimal:
    """The most that so many requests can come to, by their tokens in sum."""
    prompt = BYTES_A_TOKEN * prompt_tokens + BYTES_BESIDE * requests
    output = OVERRUN_TIMES * output_tokens + OVERRUN_SLACK * requests
    fee = price.worst_usd(0, 0)
    return price.worst_usd(prompt, output) + fee * max(0, requests - 1)
