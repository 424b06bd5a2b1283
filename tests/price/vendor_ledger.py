"""A vendor's own book of requests, and runs of ours that sent them: what an invoice would say, with an oracle's prices and none of ours.

Prices are written out: gpt-5-mini 0.25 / 0.025 cached / 2, claude-haiku-4-5 1 / 0.1 cached / 1.25 and 2 written / 5, $ per million.
"""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from harness.config.price_ref import PriceRef
from harness.price.invoice import InvoiceRow
from harness.records import SentRequest
from tests.price.cost_summaries import summary

PRICES = {  # fresh, cached, written for 5 minutes, for an hour, output
    "gpt-5-mini": ("openai", ("0.25", "0.025", "0", "0", "2"), "gpt-5-mini-2025-08-07"),
    "claude-haiku-4-5": ("anthropic", ("1", "0.1", "1.25", "2", "5"), "claude-haiku-4-5-20251001"),
}
FIRST = date(2026, 11, 3)


@dataclass(frozen=True)
class Booked:
    """A request as the vendor has it in its book."""

    day: date
    model: str  # our name
    fresh: int
    cached: int
    five: int
    hour: int
    output: int
    key: str = "key_ours"

    @property
    def usd(self) -> Decimal:
        counts = (self.fresh, self.cached, self.five, self.hour, self.output)
        return sum((n * Decimal(p) for n, p in zip(counts, PRICES[self.model][1], strict=True)), Decimal(0)) / 1_000_000

    @property
    def prompt(self) -> int:
        return self.fresh + self.cached + self.five + self.hour


def booked(seed: int, count: int = 300, models=tuple(PRICES), days: int = 3) -> list[Booked]:
    draw = random.Random(seed)
    rows = []
    for n in range(count):
        model = models[n % len(models)]
        writes = (draw.randint(0, 4000), draw.randint(0, 4000)) if model.startswith("claude") else (0, 0)
        day = FIRST + timedelta(days=n // len(models) % days)
        rows.append(
            Booked(day, model, draw.randint(1, 20_000), draw.randint(0, 20_000), *writes, draw.randint(1, 4000))
        )
    return rows


def noon(day: date) -> float:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()


def sent_of(row: Booked) -> SentRequest:
    usage = (row.prompt, row.cached, row.output, 0, *((row.five, row.hour) if row.five or row.hour else ()))
    return SentRequest(
        outcome="ok", http_status=200, sent_utc_s=noon(row.day), ended_utc_s=noon(row.day) + 1, usage=usage, asked_prompt_tokens=row.prompt,
        asked_output_tokens=row.output, bore_tokens=True, finished=True, retried=False,
    )  # fmt: skip


def lost_of(row: Booked, outcome: str = "truncated") -> SentRequest:
    return replace(sent_of(row), outcome=outcome, usage=None, finished=False)


def run_of(model: str, sent, run_id="r"):
    """A run of ours against the API of that model."""
    ref = PriceRef(provider=PRICES[model][0], model=model)
    config = {"targets": [{"name": "t", "kind": "hosted", "price": ref.model_dump(mode="json")}]}
    made = summary(kind="hosted", usage=(), created_utc="20261103T000000Z")
    return replace(made, run_id=run_id, model=model, config=config, sent=tuple(sent))


def runs_of(rows, lost=()):
    """One run a model: its answered requests, and those that were cut."""
    models = sorted({row.model for row in (*rows, *lost)})
    return [
        run_of(m, [sent_of(r) for r in rows if r.model == m] + [lost_of(r) for r in lost if r.model == m], f"run_{m}")
        for m in models
    ]


# ---------------------------------------------------------------- what the vendor says


def grouped(rows):
    groups = {}
    for row in rows:
        groups.setdefault((row.day, row.model, row.key), []).append(row)
    return groups


def invoice(rows, *, dollars=True, tokens=True, requests=True, times=Decimal(1), cents=False):
    """Rows of a day, a model and a key, as the parsed file would have them; `times`: of the price; `cents`: rounded to one."""
    found = []
    for (day, model, key), group in grouped(rows).items():
        usd = sum((row.usd for row in group), Decimal(0)) * times
        usd = usd.quantize(Decimal("0.01"), ROUND_HALF_UP) if cents else usd
        counts = {
            "input_tokens": sum(r.prompt for r in group), "cached_tokens": sum(r.cached for r in group),
            "written_tokens": sum(r.five + r.hour for r in group), "output_tokens": sum(r.output for r in group),
        }  # fmt: skip
        found.append(
            InvoiceRow(
                day,
                PRICES[model][2],
                key,
                len(group) if requests else None,
                **(counts if tokens else {}),
                usd=usd if dollars else None,
            )
        )
    return found


def _unix(day):
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _page(buckets):
    return json.dumps({"object": "page", "data": buckets, "has_more": False, "next_page": None})


def _per_day(rows, result):
    days = {}
    for (day, model, key), group in grouped(rows).items():
        days.setdefault(day, []).extend(result(PRICES[model][2], key, group))
    return days


def openai_usage_json(rows):
    def result(model, key, group):
        return [{
            "object": "organization.usage.completions.result", "input_tokens": sum(r.prompt for r in group),
            "output_tokens": sum(r.output for r in group), "input_cached_tokens": sum(r.cached for r in group),
            "num_model_requests": len(group), "project_id": None, "user_id": None, "api_key_id": key, "model": model, "batch": None,
        }]  # fmt: skip

    return _page([
        {"object": "bucket", "start_time": _unix(day), "end_time": _unix(day) + 86_400, "results": results}
        for day, results in _per_day(rows, result).items()
    ])  # fmt: skip


def openai_costs_json(rows):
    def result(model, key, group):
        prices = PRICES["gpt-5-mini"][1]
        parts = (("input", prices[0], "fresh"), ("cached input", prices[1], "cached"), ("output", prices[4], "output"))
        return [
            {
                "object": "organization.costs.result", "line_item": f"{model}, {name}", "project_id": None,
                "amount": {"value": float(sum(getattr(r, part) for r in group) * Decimal(price) / 1_000_000), "currency": "usd"},
            }
            for name, price, part in parts
        ]  # fmt: skip

    return _page([
        {"object": "bucket", "start_time": _unix(day), "end_time": _unix(day) + 86_400, "results": results}
        for day, results in _per_day(rows, result).items()
    ])  # fmt: skip


def openai_usage_csv(rows, delimiter=","):
    out = io.StringIO()
    names = ("start_time", "end_time", "start_time_iso", "end_time_iso", "project_id", "num_model_requests", "user_id", "api_key_id", "model",
             "batch", "service_tier", "input_tokens", "output_tokens", "input_cached_tokens", "input_uncached_tokens", "input_audio_tokens")  # fmt: skip
    writer = csv.DictWriter(out, names, delimiter=delimiter)
    writer.writeheader()
    for (day, model, key), group in grouped(rows).items():
        prompt, cached = sum(r.prompt for r in group), sum(r.cached for r in group)
        writer.writerow({
            "start_time": _unix(day), "end_time": _unix(day) + 86_400, "start_time_iso": f"{day}T00:00:00+00:00",
            "end_time_iso": f"{day + timedelta(days=1)}T00:00:00+00:00", "project_id": "proj_1", "num_model_requests": f"{len(group)}.0",
            "user_id": "user-1", "api_key_id": key, "model": PRICES[model][2], "batch": "FALSE", "service_tier": "default",
            "input_tokens": f"{prompt}.0", "output_tokens": f"{sum(r.output for r in group)}.0", "input_cached_tokens": f"{cached}.0",
            "input_uncached_tokens": f"{prompt - cached}.0", "input_audio_tokens": "0.0",
        })  # fmt: skip
    empty = FIRST + timedelta(days=20)  # a day without use has no other cell
    writer.writerow({"start_time": _unix(empty), "start_time_iso": f"{empty}T00:00:00+00:00"})
    return out.getvalue()


def openai_costs_csv(rows):
    """By day alone, as the dashboard exports it ungrouped."""
    days = {}
    for row in rows:
        days[row.day] = days.get(row.day, Decimal(0)) + row.usd
    lines = [
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,organization_id"
    ]
    lines += [f"{_unix(d)},{_unix(d) + 86_400},{d}T00:00:00+00:00,,{usd:.16f},usd,,,org-1" for d, usd in days.items()]
    return "\n".join(lines) + "\n"


def anthropic_usage_json(rows):
    def result(model, key, group):
        return [{
            "uncached_input_tokens": sum(r.fresh for r in group), "cache_read_input_tokens": sum(r.cached for r in group),
            "cache_creation": {"ephemeral_5m_input_tokens": sum(r.five for r in group), "ephemeral_1h_input_tokens": sum(r.hour for r in group)},
            "output_tokens": sum(r.output for r in group), "server_tool_use": {"web_search_requests": 0}, "api_key_id": key,
            "workspace_id": None, "model": model, "service_tier": None, "context_window": None,
        }]  # fmt: skip

    return _page(_anthropic_buckets(_per_day(rows, result)))


def _anthropic_buckets(days):
    return [
        {"starting_at": f"{day}T00:00:00Z", "ending_at": f"{day + timedelta(days=1)}T00:00:00Z", "results": results}
        for day, results in days.items()
    ]


def anthropic_costs_json(rows):
    """Cents as text, a token type each."""

    def result(model, key, group):
        prices = PRICES["claude-haiku-4-5"][1]
        types = ("uncached_input_tokens", "cache_read_input_tokens", "cache_creation.ephemeral_5m_input_tokens",
                 "cache_creation.ephemeral_1h_input_tokens", "output_tokens")  # fmt: skip
        parts = zip(types, prices, ("fresh", "cached", "five", "hour", "output"), strict=True)
        return [
            {
                "currency": "USD", "amount": str(sum(getattr(r, part) for r in group) * Decimal(price) / 10_000), "workspace_id": None,
                "description": f"{model} Usage - {kind}", "cost_type": "tokens", "context_window": "0-200k", "model": model,
                "service_tier": "standard", "token_type": kind,
            }
            for kind, price, part in parts
        ]  # fmt: skip

    return _page(_anthropic_buckets(_per_day(rows, result)))


def anthropic_console_csv(rows):
    tokens = ("no_cache", "cache_write_5m", "cache_write_1h", "cache_read")
    counts = ",".join(f"usage_input_tokens_{kind}" for kind in tokens)
    lines = [
        f"usage_date_utc,model_version,api_key,workspace,usage_type,context_window,{counts},usage_output_tokens,web_search_count"
    ]
    for (day, model, key), group in grouped(rows).items():
        fresh, five, hour, read, output = (
            sum(getattr(r, part) for r in group) for part in ("fresh", "five", "hour", "cached", "output")
        )
        lines.append(f"{day},{PRICES[model][2]},{key},Default,message,≤ 200k,{fresh},{five},{hour},{read},{output},0")
    return "\n".join(lines) + "\n"


def own_csv(rows):
    """An invoice with columns of its own, dollars to the cent."""
    lines = ["Datum;Modell;Anfragen;Eingabe;Ausgabe;Betrag"]
    for row in invoice(rows, cents=True):
        lines.append(f"{row.day};{row.model};{row.requests};{row.input_tokens};{row.output_tokens};${row.usd}")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
