"""What a vendor says it billed: its invoice or usage export as rows of a day, a model and a key. The format is found out by its columns.

| format | from | has |
|---|---|---|
| OpenAI usage, JSON and CSV | GET /v1/organization/usage/completions (bucket_width 1d or less, group_by model), or the dashboard | requests, tokens |
| OpenAI costs, JSON and CSV | GET /v1/organization/costs (group_by line_item), or the dashboard | dollars |
| Anthropic usage, JSON | GET /v1/organizations/usage_report/messages (group_by[] model) | tokens |
| Anthropic costs, JSON | GET /v1/organizations/cost_report (group_by[] description): amounts in cents | dollars |
| Anthropic usage, CSV | the console's Usage page | tokens |
| any CSV | our names (`GENERIC`), or columns that the user declares for them | what it has |

Sources, read 2026-11-26: developers.openai.com/api/docs/api-reference/usage (fields as in the generated clients of its OpenAPI document),
platform.claude.com/docs/en/api/admin/cost_report and /usage_report; the two dashboards' CSVs by exports of others, none of ours.
Days are UTC. Amounts are Decimals as written.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from harness.base.documents import parse_json
from harness.base.errors import ConfigError

GENERIC = ("day", "model", "key", "requests", "input_tokens", "cached_tokens", "written_tokens", "output_tokens", "usd")
_SECONDS_A_DAY = 86_400
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    """One row. None: the file does not say. `input_tokens` hold the cached and the written ones. `model` None: of no single model."""

    day: date
    model: str | None
    key: str | None
    requests: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    written_tokens: int | None = None
    output_tokens: int | None = None
    usd: Decimal | None = None

    @property
    def is_rounded(self) -> bool:
        """Whether its dollars may have been rounded to the cent."""
        exponent = None if self.usd is None else self.usd.as_tuple().exponent
        return isinstance(exponent, int) and exponent >= -2


@dataclass(frozen=True, slots=True)
class Invoice:
    """A file's rows, and the columns that were not read."""

    format: str
    rows: tuple[InvoiceRow, ...]
    unread: tuple[str, ...] = ()


def read_invoice(path: Path, columns: Mapping[str, str] | None = None) -> Invoice:
    """The rows of a file. `columns`: {our name: the file's} of a CSV that is none of the known formats.

    Raises ConfigError: no file, not whole (more pages), another currency than USD, no known format (its columns are named), a bad value.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError("invoice cannot be read", path, error.strerror or "") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(
            "invoice is too large", f"{path}: {len(data):,} bytes", f"{_MOST_BYTES:,} at most: export fewer days"
        )
    text = data.decode("utf-8-sig", errors="replace")
    if text.lstrip()[:1] in ("{", "["):
        return _of_json(text, path)
    return _of_csv(text, path, columns or {})


# ---------------------------------------------------------------- values


def _whole(value: Any) -> int | None:
    """A count: exports write 10 as 10.0 too."""
    number = _decimal(value)
    if number is None:
        return None
    if number != number.to_integral_value() or number < 0:
        raise ValueError(f"{value!r:.40} is no count")
    return int(number)


def _decimal(value: Any) -> Decimal | None:
    text = "" if value is None or isinstance(value, bool) else str(value).strip().removeprefix("$").replace(",", "")
    if not text:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{value!r:.40} is no number") from None
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is no number")
    return number


def _day(value: Any) -> date:
    """A date, a time (UTC where it names no zone), or seconds since 1970."""
    text = str(value).strip()
    if text.removesuffix(".0").isdigit() and len(text) > len("20261126"):
        return datetime.fromtimestamp(float(text), UTC).date()
    when = datetime.fromisoformat(text)
    return (when.astimezone(UTC) if when.tzinfo else when).date()


def _in_usd(currency: Any) -> None:
    if str(currency or "usd").lower() != "usd":
        raise ValueError(f"amounts are in {currency!s:.20}, prices here are in USD")


def _added(*parts: int | None) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _model_of_item(item: Any) -> str | None:
    """OpenAI's line items are `MODEL, input`, `MODEL, cached input`, `MODEL, output`; others are of no model."""
    model, comma, _ = str(item or "").partition(", ")
    return model if comma else None


# ---------------------------------------------------------------- formats: a row of the file -> one of ours


def _openai_usage(day: date, r: Mapping[str, Any]) -> InvoiceRow:
    return InvoiceRow(
        day, r.get("model") or None, r.get("api_key_id") or None, _whole(r.get("num_model_requests")), _whole(r.get("input_tokens")),
        _whole(r.get("input_cached_tokens")), _whole(r.get("input_cache_write_tokens")) or 0, _whole(r.get("output_tokens")),
    )  # fmt: skip


def _openai_costs(day: date, r: Mapping[str, Any]) -> InvoiceRow:
    amount = r.get("amount") or {"value": r.get("amount_value"), "currency": r.get("amount_currency")}
    _in_usd(amount.get("currency"))
    return InvoiceRow(
        day, _model_of_item(r.get("line_item")), r.get("api_key_id") or None, usd=_decimal(amount.get("value"))
    )


def _anthropic_usage(day: date, r: Mapping[str, Any]) -> InvoiceRow:
    writes = r.get("cache_creation") or {}
    written = _added(*(_whole(writes.get(f"ephemeral_{life}_input_tokens")) for life in ("5m", "1h")))
    fresh, read = _whole(r.get("uncached_input_tokens")), _whole(r.get("cache_read_input_tokens"))
    return InvoiceRow(
        day, r.get("model") or None, r.get("api_key_id") or None, None, _added(fresh, read, written), read, written,
        _whole(r.get("output_tokens")),
    )  # fmt: skip


def _anthropic_costs(day: date, r: Mapping[str, Any]) -> InvoiceRow:
    _in_usd(r.get("currency"))
    amount = _decimal(r.get("amount"))
    return InvoiceRow(day, r.get("model") or None, None, usd=None if amount is None else amount / 100)


def _anthropic_console(day: date, r: Mapping[str, Any]) -> InvoiceRow:
    fresh, read, five, hour = (
        _whole(r.get(f"usage_input_tokens_{part}"))
        for part in ("no_cache", "cache_read", "cache_write_5m", "cache_write_1h")
    )
    written = _added(five, hour)
    model = r.get("model_version") or r.get("model") or None
    return InvoiceRow(
        day,
        model,
        r.get("api_key") or None,
        None,
        _added(fresh, read, written),
        read,
        written,
        _whole(r.get("usage_output_tokens")),
    )


def _generic(day: date, r: Mapping[str, Any]) -> InvoiceRow:
    counts = {name: _whole(r.get(name)) for name in GENERIC[3:8]}
    return InvoiceRow(day, r.get("model") or None, r.get("key") or None, **counts, usd=_decimal(r.get("usd")))


_Row = Callable[[date, Mapping[str, Any]], InvoiceRow]


@dataclass(frozen=True, slots=True)
class _Format:
    """`marks`: columns by which it is known; `day`: where its day stands; `known`: those that hold nothing a bill is made of."""

    name: str
    marks: frozenset[str]
    day: tuple[str, ...]
    row: _Row
    read: frozenset[str] = frozenset()


_STARTS = ("start_time_iso", "start_time", "starting_at")
_ABOUT = frozenset((*_STARTS, "end_time", "end_time_iso", "ending_at", "object", "project_id", "project_name", "user_id", "batch",
    "service_tier", "workspace", "workspace_id", "context_window", "organization_id", "organization_name", "currency", "description",
    "cost_type", "token_type", "inference_geo", "speed", "api_source", "input_uncached_tokens", "quantity"))  # fmt: skip
_FORMATS = (
    _Format("OpenAI usage", frozenset(("num_model_requests", "input_tokens", "output_tokens")), _STARTS, _openai_usage,
        frozenset(("model", "api_key_id", "input_cached_tokens", "input_cache_write_tokens", "input_text_tokens", "output_text_tokens",
                   "input_cached_text_tokens"))),
    _Format("OpenAI costs", frozenset(("amount_value", "amount_currency")), _STARTS, _openai_costs, frozenset(("line_item", "api_key_id"))),
    _Format("Anthropic usage", frozenset(("usage_input_tokens_no_cache", "usage_output_tokens")), ("usage_date_utc",), _anthropic_console,
        frozenset(("usage_date_utc", "model", "model_version", "api_key", "usage_input_tokens_cache_read", "usage_input_tokens_cache_write_5m",
                   "usage_input_tokens_cache_write_1h", "usage_type"))),
)  # fmt: skip
_OF_JSON: tuple[tuple[str, Callable[[Mapping[str, Any]], bool], _Row], ...] = (
    ("OpenAI usage", lambda r: "input_tokens" in r and "num_model_requests" in r, _openai_usage),
    ("OpenAI costs", lambda r: isinstance(r.get("amount"), dict), _openai_costs),
    ("Anthropic usage", lambda r: "uncached_input_tokens" in r, _anthropic_usage),
    ("Anthropic costs", lambda r: isinstance(r.get("amount"), str), _anthropic_costs),
)


def _of_json(text: str, path: Path) -> Invoice:
    try:
        value = parse_json(text, Decimal)
    except ValueError as error:
        raise ConfigError(
            "invoice is not JSON", f"{path}: {error}", "the reply of a usage or costs API, as it came"
        ) from None
    pages = value if isinstance(value, list) else [value]
    rows: list[InvoiceRow] = []
    names: dict[str, None] = {}
    for n, (bucket, result) in enumerate(_results(pages, path)):
        found = next(((name, row) for name, fits, row in _OF_JSON if fits(result)), None)
        if found is None:
            raise _no_format(path, sorted(result))
        names.setdefault(found[0])
        try:
            rows.append(found[1](_day(next(bucket[s] for s in _STARTS if s in bucket)), result))
        except (ValueError, StopIteration) as error:
            raise ConfigError(
                "invoice has a value that cannot be", f"{path}, result {n + 1}: {error}", "see the vendor's export"
            ) from None
    return Invoice(", ".join(names) or "a page without results", tuple(rows))


def _results(pages: Sequence[Any], path: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(bucket, result) of pages of buckets, as both vendors' APIs give them."""
    for page, after in zip(pages, [*pages[1:], None], strict=True):
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise _no_format(path, sorted(page) if isinstance(page, dict) else [])
        if page.get("has_more") and after is None:
            raise ConfigError(
                "invoice is not whole",
                f"{path}: has_more",
                "fetch every page, and give them as one list: [page, page ..]",
            )
        for bucket in page["data"]:
            if not isinstance(bucket, dict) or not isinstance(bucket.get("results"), list):
                raise _no_format(path, sorted(bucket) if isinstance(bucket, dict) else [])
            start, end = bucket.get("start_time"), bucket.get("end_time")
            if isinstance(start, int) and isinstance(end, int) and end - start > _SECONDS_A_DAY:
                raise ConfigError(
                    "a bucket is longer than a day", f"{path}: {end - start} s", "export with bucket_width=1d"
                )
            yield from ((bucket, result) for result in bucket["results"] if isinstance(result, dict))


def _of_csv(text: str, path: Path, columns: Mapping[str, str]) -> Invoice:
    first = text.partition("\n")[0]
    delimiter = max(",\t;", key=first.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        headers = [header.strip() for header in reader.fieldnames or ()]
        reader.fieldnames = headers
        found, renamed = _csv_format(headers, columns, path)
        rows = [_csv_row(found, renamed, raw, path, reader.line_num) for raw in reader]
    except csv.Error as error:
        raise ConfigError(
            "invoice is not CSV", f"{path}, line {reader.line_num}: {error}", "a header, then one row a line"
        ) from None
    used = {*renamed.values(), *found.marks, *found.day, *found.read, *_ABOUT}
    return Invoice(
        found.name, tuple(row for row in rows if row is not None), tuple(h for h in headers if h not in used)
    )


def _csv_format(headers: Sequence[str], columns: Mapping[str, str], path: Path) -> tuple[_Format, dict[str, str]]:
    """The format, and {our name: header} of a generic one."""
    known = None if columns else next((f for f in _FORMATS if f.marks <= set(headers)), None)
    if known is not None:
        return known, {}
    renamed = {name: columns.get(name, name) for name in GENERIC if columns.get(name, name) in headers}
    if missing := [f"{name}={header}" for name, header in columns.items() if name not in renamed]:
        raise ConfigError(
            "a declared column is not there", ", ".join(missing), f"{path} has: {', '.join(headers)[:400]}"
        )
    if "day" not in renamed or not {"usd", "input_tokens", "output_tokens"} & set(renamed):
        raise _no_format(path, headers)
    return _Format("CSV", frozenset(), (renamed["day"],), _generic), renamed


def _csv_row(
    found: _Format, renamed: Mapping[str, str], raw: Mapping[str, Any], path: Path, line: int
) -> InvoiceRow | None:
    """None for a day without anything: the dashboards write its other cells empty."""
    row = {name: raw.get(header) for name, header in renamed.items()} if renamed else raw
    start = next((raw[name] for name in found.day if raw.get(name)), None)
    if start is None or not any(raw.get(name) for name in (found.marks or set(renamed.values()) - set(found.day))):
        return None
    try:
        return found.row(_day(start), row)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            "invoice has a value that cannot be", f"{path}, line {line}: {error}", "see the vendor's export"
        ) from None


def _no_format(path: Path, columns: Sequence[str]) -> ConfigError:
    return ConfigError(
        "no known format of an invoice",
        f"{path} has: {', '.join(map(str, columns))[:400] or 'nothing'}",
        f"declare its columns: --column day=NAME --column usd=NAME ..; of {', '.join(GENERIC)}",
    )
