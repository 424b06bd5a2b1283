"""The two sides of a reconciliation, a day (UTC) and a model at a time: what our rows come to, and what an invoice's rows add up to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.price.hosted import HostedPrice, Tokens, bill, book_model
from harness.price.hosted_api import api_of_run, hosted_side
from harness.price.hosted_cache import cache_of
from harness.price.invoice import InvoiceRow
from harness.price.prices import day_of
from harness.price.sent_bill import bill_of_sent, longer_tokens
from harness.records import RunSummary, SentRequest

ALL_MODELS = "all models"  # of a file whose dollars are of a day alone
NO_MODEL = "of no model"  # searches, storage and the like
PARTS = ("fresh", "cached", "written", "output")


@dataclass(frozen=True, slots=True)
class Ours:
    """What our rows of a day and a model come to. `tokens`, `usd`: by part, of the requests billed by usage; `usd` has `fees` too.

    `unknown` requests may be billed besides, up to `unknown_tokens` of (prompts, output) and `unknown_usd`. `crossed`: requests that began
    the day before. `price`: to price what only the vendor has.
    """

    requests: int
    tokens: Mapping[str, int]
    usd: Mapping[str, Decimal]
    unknown: int
    unknown_tokens: tuple[int, int]
    unknown_usd: Decimal
    crossed: int
    run_ids: tuple[str, ...]
    price: HostedPrice

    @property
    def total_usd(self) -> Decimal:
        return sum(self.usd.values(), Decimal(0))

    def unit_usd(self, part: str, count: int) -> Decimal:
        """Dollars of `count` more tokens of a part: at what a token of it cost here, else at the price of a short prompt's."""
        if self.tokens[part]:
            return self.usd[part] / self.tokens[part] * count
        one = {
            "fresh": Tokens(1, 0, 0, 0),
            "cached": Tokens(1, 1, 0, 0),
            "written": Tokens(1, 0, 0, 0, 1),
            "output": Tokens(0, 0, 1, 0),
        }
        made = bill(self.price, [one[part]])
        return (made.total_usd - made.fees_usd) * count


@dataclass(frozen=True, slots=True)
class Theirs:
    """The file's rows of a day and a model added up; None: it does not say. `tokens` has the parts that it tells."""

    requests: int | None
    input_tokens: int | None
    tokens: Mapping[str, int]
    usd: Decimal | None
    rounded: int  # amounts that may have been rounded to the cent
    keys: tuple[str, ...]


# ---------------------------------------------------------------- our side


def our_days(summaries: Sequence[RunSummary]) -> tuple[dict[tuple[date, str], Ours], dict[str, PriceRef], list[str]]:
    """({(day, model): what it comes to}, {model: its price}, why runs were left out). A request is of the day (UTC) that it ended on."""
    days: dict[tuple[date, str], Ours] = {}
    refs: dict[str, PriceRef] = {}
    left_out = []
    for summary in map(hosted_side, summaries):
        api = api_of_run(summary)
        if api is None or api.ref is None:
            left_out.append(
                f"{summary.run_id}: no price of its API: declare it at the target (price: {{provider, model}})"
            )
            continue
        ref, service = api.ref, api.service
        try:
            price = api.price(ref, day_of(summary.created_utc))
        except ConfigError as error:
            left_out.append(f"{summary.run_id}: {error.what}: {error.value}")
            continue
        refs[ref.model] = ref
        cache = cache_of(ref, summary)
        by_day: dict[date, list[SentRequest]] = defaultdict(list)
        for sent in summary.sent:
            if sent.sent_utc_s is not None:
                by_day[_day_of(sent.ended_utc_s or sent.sent_utc_s)].append(sent)
        for day, requests in by_day.items():
            whole = bill_of_sent(ref, price, service, cache, requests, longer_tokens(summary.sent))
            b = whole.billed
            fresh = b.input_tokens - b.cached_tokens - b.written_tokens
            crossed = sum(_day_of(s.sent_utc_s) < day for s in requests if s.sent_utc_s is not None)
            one = Ours(
                b.requests, dict(zip(PARTS, (fresh, b.cached_tokens, b.written_tokens, b.output_tokens), strict=True)),
                dict(zip((*PARTS, "fees"), (b.fresh_usd, b.cached_usd, b.written_usd, b.output_usd, b.fees_usd), strict=True)),
                sum(whole.unknown.values()), whole.unknown_tokens, whole.unknown_usd, crossed, (summary.run_id,), price,
            )  # fmt: skip
            at = (day, ref.model)
            days[at] = _added(days[at], one) if at in days else one
    return days, refs, left_out


def _day_of(utc_s: float) -> date:
    return datetime.fromtimestamp(utc_s, UTC).date()


def _added(a: Ours, b: Ours) -> Ours:
    return Ours(
        a.requests + b.requests, {part: a.tokens[part] + b.tokens[part] for part in a.tokens},
        {part: a.usd[part] + b.usd[part] for part in a.usd}, a.unknown + b.unknown,
        (a.unknown_tokens[0] + b.unknown_tokens[0], a.unknown_tokens[1] + b.unknown_tokens[1]),
        a.unknown_usd + b.unknown_usd, a.crossed + b.crossed, (*a.run_ids, *b.run_ids), b.price,
    )  # fmt: skip


# ---------------------------------------------------------------- their side


def their_days(rows: Sequence[InvoiceRow], refs: Mapping[str, PriceRef]) -> dict[tuple[date, str], Theirs]:
    """Rows of one day and model added up, under the name that the model has here where it has one; of ALL_MODELS where the file tells
    none, or has its dollars without one."""
    groups: dict[tuple[date, str], list[InvoiceRow]] = defaultdict(list)
    paid = [row for row in rows if row.usd is not None]
    is_of_days = not any(row.model for row in paid or rows)
    for row in rows:
        name = NO_MODEL if row.model is None else our_name(row.model, refs)
        groups[row.day, ALL_MODELS if is_of_days else name].append(row)
    return {at: _theirs(group) for at, group in groups.items()}


def our_name(theirs: str, refs: Mapping[str, PriceRef]) -> str:
    """gpt-5-mini-2025-08-07 is gpt-5-mini: by the name, or because both have one entry in the price book."""
    for name, ref in refs.items():
        if theirs.lower() == name.lower() or _entry(ref, theirs) == _entry(ref, name) != "":
            return name
    return theirs


def days_alone(days: Mapping[tuple[date, str], Ours]) -> dict[tuple[date, str], Ours]:
    """All models of a day as one."""
    summed: dict[tuple[date, str], Ours] = {}
    for (day, _), ours in days.items():
        at = (day, ALL_MODELS)
        summed[at] = _added(summed[at], ours) if at in summed else ours
    return summed


def _entry(ref: PriceRef, model: str) -> str:
    try:
        return str(book_model(PriceRef(provider=ref.provider, model=model))[1].id)
    except ConfigError:
        return ""


def _theirs(rows: Sequence[InvoiceRow]) -> Theirs:
    def total(name: str) -> int | None:
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        return sum(known) if known else None

    given, cached, written, output = (total(f"{part}_tokens") for part in ("input", "cached", "written", "output"))
    tokens = {} if output is None else {"output": output}
    if given is not None and cached is not None:
        tokens |= {"fresh": given - cached - (written or 0), "cached": cached, "written": written or 0}
    amounts = [row.usd for row in rows if row.usd is not None]
    keys = tuple(sorted({row.key for row in rows if row.key is not None}))
    return Theirs(
        total("requests"),
        given,
        tokens,
        sum(amounts, Decimal(0)) if amounts else None,
        sum(row.is_rounded for row in rows),
        keys,
    )
