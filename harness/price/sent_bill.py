"""What a run against a hosted API costs its account: every request that was sent, warm-up, failed, cut and repeated ones included.

A stream that came to its end with usage is billed by it. What a vendor bills of the others is known where it says so (`_RULES`), and
otherwise unknown: from nothing up to the worst case, never silently nothing.

    worst case = worst_usd(the prompt's tokens, the tokens asked for)

where the prompt's tokens are not known they are those asked for, and as many more as any answered request of the run had. Of a reply
that went on beyond what was asked for until we hung up, twice as many tokens and what came until then, as the cap has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, bill, usage_problem, worst_usd
from harness.price.hosted_cache import HostedCache
from harness.records import OVERRUN_SLACK, OVERRUN_TIMES, Bill, Outcome, SentRequest


@dataclass(frozen=True, slots=True)
class BillingRule:
    """What a vendor says that it does not bill. `words` are printed with `source`. `service`: of that one alone; None: of any."""

    provider: str  # id of genai-prices; "": any
    service: str | None
    applies: Callable[[SentRequest], bool]
    words: str
    source: str


def _status(*statuses: int) -> Callable[[SentRequest], bool]:
    return lambda sent: sent.outcome == Outcome.HTTP_ERROR and sent.http_status in statuses


def _has_no_completion(sent: SentRequest) -> bool:
    empty = sent.outcome in (Outcome.HTTP_ERROR, Outcome.EMPTY_REPLY) and not sent.bore_tokens
    return sent.outcome == Outcome.ERROR_EVENT or empty


_RULES = (
    BillingRule("", None, lambda sent: sent.sent_utc_s is None, "never sent", "not a byte of it went out"),
    BillingRule("", None, _status(401), "401", "nobody whose key is refused can be billed"),
    BillingRule(
        "azure", None, _status(429), "429",
        "not processed, not charged, where 400 and 408 may be: learn.microsoft.com/azure/ai-services/openai/how-to/manage-costs, 2026-11-26",
    ),
    BillingRule(
        "google", None, _status(400, 500), "400 and 500", "not charged: ai.google.dev/gemini-api/docs/billing, 2026-11-26"
    ),
    BillingRule(
        "openrouter", None, _has_no_completion, "no completion, or one that ended in an error",
        "openrouter.ai/docs/guides/features/zero-completion-insurance, 2026-11-26",
    ),
    BillingRule(
        "openai", "flex", _status(429), "429 of flex", "developers.openai.com/api/docs/guides/flex-processing, 2026-11-26"
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SentBill:
    """`billed`: by usage. `free`: requests that are not billed, by the rule that says so. `unknown`: requests of which nobody knows, by
    outcome, and `unknown_usd`: the most that they can come to, with `unknown_tokens` of (prompts, output)."""

    billed: Bill
    free: Mapping[str, int]
    unknown: Mapping[str, int]
    unknown_usd: Decimal
    unknown_tokens: tuple[int, int] = (0, 0)

    @property
    def words(self) -> str:
        parts = [f"{self.billed.requests} requests by their usage"]
        parts += [f"{count} not billed ({why})" for why, count in self.free.items()]
        if self.unknown:
            outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self.unknown.items())
            parts.append(f"{sum(self.unknown.values())} of which nobody knows whether they are billed ({outcomes})")
        return "; ".join(parts)


def free_by(ref: PriceRef, service: str | None, sent: SentRequest) -> BillingRule | None:
    """The rule by which a vendor does not bill a request; None: there is none that is known."""
    rules = (r for r in _RULES if r.provider in ("", ref.provider) and r.service in (None, service))
    return next((rule for rule in rules if rule.applies(sent)), None)


def is_settled(sent: SentRequest) -> bool:
    """Whether usage says what a request is billed: it came with the stream's end, and adds up."""
    return sent.usage is not None and sent.finished and usage_problem([sent.usage]) is None


def bill_of_sent(
    ref: PriceRef,
    price: HostedPrice,
    service: str | None,
    cache: HostedCache,
    requests: Sequence[SentRequest],
    longer: int | None = None,
) -> SentBill:
    """The bill of every request that was sent to the API that `price` is of. `longer`: as `longer_tokens` of a run says, of which
    `requests` are a part."""
    settled, free = [], Counter[str]()
    lost: list[tuple[str, int, int]] = []  # outcome, and the most tokens of its prompt and output
    longer = longer_tokens(requests) if longer is None else longer
    for sent in requests:
        rule = free_by(ref, service, sent)
        if rule is not None:
            free[f"{rule.words}: {rule.source}"] += 1
        elif sent.usage is not None and is_settled(sent):
            settled.append(sent.usage)
        else:
            lost.append((sent.outcome, *worst_tokens(sent, longer)))
        if sent.retried and rule is None:
            lost.append(("sent before, and cut", *worst_tokens(sent, longer)))
    unknown = Counter(outcome for outcome, _, _ in lost)
    worst = sum((worst_usd(price, prompt, output) for _, prompt, output in lost), Decimal(0))
    most = (sum(prompt for _, prompt, _ in lost), sum(output for _, _, output in lost))
    return SentBill(bill(price, cache.tokens(settled)), dict(free), dict(unknown), worst, most)


def longer_tokens(requests: Sequence[SentRequest]) -> int:
    """The most by which a prompt's tokens by usage were more than those asked for: a chat template's, another tokenizer's."""
    return max((max(0, s.usage[0] - s.asked_prompt_tokens) for s in requests if s.usage is not None), default=0)


def worst_tokens(sent: SentRequest, longer: int) -> tuple[int, int]:
    """The most tokens of (prompt, output) that a request can have been billed."""
    told = (0, 0) if sent.usage is None else (sent.usage[0], sent.usage[2])
    output = sent.asked_output_tokens
    if sent.outcome == Outcome.OVERRUN:
        output = OVERRUN_TIMES * output + OVERRUN_SLACK
    return max(told[0], sent.asked_prompt_tokens + longer), max(told[1], output)
