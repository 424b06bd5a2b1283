"""A model of a run against a paid API in one process: gate, lease and ledger are the real ones, requests and time are drawn.

A kill takes the process's memory and leaves the ledger, what the drive had let out and begun, and its replies; the API bills what it was
sent. `settle` does with those what a later start does.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace
from decimal import Decimal

from genai_prices.types import ModelPrice, Tier, TieredPrices

from harness.config.price_ref import PriceRef
from harness.judge.sent import sent_of
from harness.measure.gate import Answer, Asked
from harness.measure.left_drive import LetOut
from harness.measure.settle import spent_of
from harness.measure.spend import Budget, Lease, SpendGate, worst_of
from harness.price.hosted import HostedPrice, Tokens, bill
from harness.price.ledger import Ledger
from harness.price.request_price import RequestPrice
from harness.records import OVERRUN_SLACK, OVERRUN_TIMES, Outcome, PlannedRequest, RequestRecord, SentRequest

EMPTY = dict.fromkeys(RequestRecord.__dataclass_fields__)


def random_price(rng: random.Random) -> RequestPrice:
    """Fresh, read, written, output and reasoning prices, some in tiers, some with a fee per request."""

    def usd(most):
        flat = Decimal(rng.randrange(1, 1000)) * most / 1000
        if rng.random() < 0.4:
            tiers = [Tier(start=rng.choice((200, 800, 3000)), price=flat * rng.choice((Decimal("0.5"), 2, 3)))]
            return TieredPrices(base=flat, tiers=tiers)
        return flat

    prices = {"input_mtok": usd(30), "output_mtok": usd(120)}
    for key, share in (("cache_read_mtok", 3), ("cache_write_mtok", 40), ("output_reasoning_mtok", 150)):
        if rng.random() < 0.5:
            prices[key] = usd(share)
    if rng.random() < 0.3:
        prices["requests_kcount"] = Decimal(rng.randrange(1, 20))
    ref = PriceRef(provider=rng.choice(("openai", "anthropic", "acme")), model="m")
    return RequestPrice(ref, (HostedPrice("acme/m", ModelPrice(**prices), {}, None),), None, (429,))


@dataclass
class Api:
    """Bills what it is sent. `billed_usd` is the truth that the cap is held against."""

    rng: random.Random
    price: RequestPrice
    billed_usd: Decimal = Decimal(0)
    overruns: float = 0.1
    refused: float = 0.1
    cut: float = 0.05

    def reply(self, asked: Asked) -> tuple[dict, Decimal]:
        """(what of it is seen, what it bills). An overrun is hung up on at twice the tokens, noticed a little later."""
        rng, n = self.rng, asked.request.target_output_tokens
        dice = rng.random()
        if dice < self.refused:
            return {"outcome": Outcome.HTTP_ERROR, "http_status": 429}, Decimal(0)
        prompt = rng.randint(1, asked.body_bytes)
        cached = rng.choice((0, 0, rng.randint(0, prompt)))
        written = rng.choice((0, prompt - cached)) if self.price.prices[0].model.cache_write_mtok is not None else 0
        told = {"cache_written_5m_tokens": written} if rng.random() < 0.5 else {}
        if dice > 1 - self.overruns:
            output = rng.randint(n, OVERRUN_TIMES * n + OVERRUN_SLACK)
            seen = {"outcome": Outcome.OVERRUN} if output > OVERRUN_TIMES * n else {"outcome": Outcome.OK}
        else:
            output, seen = rng.randint(1, n), {"outcome": Outcome.OK}
        reasoning = rng.choice((0, rng.randint(0, output)))
        usd = bill(self.price.prices[0], [Tokens(prompt, cached, output, reasoning, written)]).total_usd
        usage = {
            "prompt_tokens": prompt, "cached_prompt_tokens": cached, "output_tokens": output, "reasoning_tokens": reasoning,
        }  # fmt: skip
        if rng.random() < self.cut:
            return {"outcome": rng.choice((Outcome.TRUNCATED, Outcome.TIMEOUT_TOTAL, Outcome.RESET))}, usd
        if seen["outcome"] is Outcome.OVERRUN:
            return seen, usd
        return seen | usage | told | {"finish_reason": "stop"}, usd


def row_of(seq: int, seen: dict, sent_ns: int | None = 1) -> RequestRecord:
    base = EMPTY | {
        "request_id": f"r{seq}",
        "seq": seq,
        "phase": "measure",
        "worker": 0,
        "chunk_ns": (),
        "sent_ns": sent_ns,
    }
    base |= {"target_prompt_tokens": 1, "target_output_tokens": 1, "http_status": 200}
    return RequestRecord(**base | seen | {"outcome": str(seen["outcome"])})


@dataclass
class Drive:
    """A closed loop of `slots` over a plan without end, in steps; up to `workers` x `ahead` are admitted ahead."""

    rng: random.Random
    gate: SpendGate
    api: Api
    slots: int
    workers: int
    longest: tuple[int, int]
    seq: int = 0
    at: float = 0.0
    stopped: bool = False
    admitted: list[Asked] = field(default_factory=list)  # ahead of a slot
    flying: list[tuple[float, int, dict]] = field(default_factory=list)
    waiting: Asked | None = None
    let: dict[int, LetOut] = field(default_factory=dict)
    ended: dict[int, SentRequest] = field(default_factory=dict)
    billed: dict[int, Decimal] = field(default_factory=dict)  # dollars of what was sent

    def step(self) -> bool:
        """False once it is over."""
        while not self.stopped and len(self.admitted) + len(self.flying) < self.slots + self.workers * self.gate.ahead:
            prompt, output = self.longest
            asked = self.waiting or Asked(
                self.seq,
                PlannedRequest(self.seq, None, 1, self.rng.randint(1, output), None, 0),
                None,
                self.rng.randint(10, prompt),
            )
            answer = self.gate.ask(asked)
            if answer is Answer.LATER:
                self.waiting = asked
                break
            self.waiting = None
            if answer is Answer.STOP:
                self.stopped = True
                break
            self.seq += 1
            self.admitted.append(asked)
            self.let[asked.request.seq] = LetOut(
                asked.request.seq, asked.body_bytes, asked.request.target_output_tokens, False
            )
        while not self.stopped and self.admitted and len(self.flying) < self.slots:
            asked = self.admitted.pop(0)
            seen, usd = self.api.reply(asked)
            self.api.billed_usd += usd
            seq = asked.request.seq
            self.let[seq] = replace(self.let[seq], begun=True)
            self.billed[seq] = usd
            heapq.heappush(self.flying, (self.at + self.rng.expovariate(1), asked.request.seq, seen))
        if not self.flying:
            return not self.stopped
        self.at, seq, seen = heapq.heappop(self.flying)
        row = row_of(seq, seen)
        self.ended[seq] = sent_of(row)
        self.gate.over([row])
        return True

    def known_and_unknown_usd(self) -> tuple[Decimal, Decimal]:
        """(what replies that tell all of it were billed, the most that those may have been that tell less, or nothing). Less is told by usage
        that is silent of cache writes where they have a price."""
        known = unknown = Decimal(0)
        price, writes = self.api.price, self.api.price.prices[0].model.cache_write_mtok is not None
        for seq, usd in self.billed.items():
            let, sent = self.let[seq], self.ended.get(seq)
            worst = worst_of(price, let.body_bytes, let.output_tokens)
            if sent is None:
                unknown += worst
            elif sent.http_status == 429 or (sent.usage is not None and (len(sent.usage) > 4 or not writes)):
                known += usd
            else:
                unknown += price.spent_usd(sent, worst)[0]
        return known, unknown


def gate_of(path, caps, run, price, slots, name="run") -> tuple[SpendGate, Ledger]:
    """As a process makes it that begins, or begins again after a kill."""
    ledger = Ledger(path)
    return SpendGate(Lease(Budget(run, caps, {"k": ledger}), "k", name), price, slots), ledger


def settle(path, drive: Drive, torn: int | None) -> None:
    """What a later start does of a drive that was killed. `torn`: it is killed in the midst itself, so many bytes of its line written, and
    done again."""
    spent = spent_of(drive.api.price, drive.let.values(), drive.ended)
    before = path.read_bytes()
    for _ in range(1 if torn is None else 2):
        ledger = Ledger(path)
        ledger.settle(drive.gate.lease.name, spent)
        ledger.close()
        if torn is not None:
            path.write_bytes(before + path.read_bytes()[len(before) :][:torn])
            torn = None
