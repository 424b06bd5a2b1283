"""Every known format of an export, written by a vendor's book and read back: the same days, models, keys, tokens and dollars."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.price.invoice import InvoiceRow, read_invoice
from tests.price import vendor_ledger as ledger
from tests.price.vendor_ledger import FIRST, PRICES, booked, invoice, write

MINI, HAIKU = PRICES
OPENAI = [*booked(1, 40, models=(MINI,)), *(replace(row, key="key_2") for row in booked(2, 5, models=(MINI,)))]
CLAUDE = booked(3, 40, models=(HAIKU,))
FORMATS = {
    "openai usage json": ("OpenAI usage", ledger.openai_usage_json, OPENAI, {"dollars": False}),
    "openai costs json": ("OpenAI costs", ledger.openai_costs_json, OPENAI, {"tokens": False, "requests": False}),
    "openai usage csv": ("OpenAI usage", ledger.openai_usage_csv, OPENAI, {"dollars": False}),
    "openai usage tsv": ("OpenAI usage", lambda rows: ledger.openai_usage_csv(rows, "\t"), OPENAI, {"dollars": False}),
    "anthropic usage json": ("Anthropic usage", ledger.anthropic_usage_json, CLAUDE, {"dollars": False, "requests": False}),
    "anthropic costs json": ("Anthropic costs", ledger.anthropic_costs_json, CLAUDE, {"tokens": False, "requests": False}),
    "anthropic console csv": ("Anthropic usage", ledger.anthropic_console_csv, CLAUDE, {"dollars": False, "requests": False}),
}  # fmt: skip


def summed(rows, *, keyed):
    """{(day, model, key): sums}: an export may have a line a token type."""
    groups = defaultdict(lambda: [0, 0, 0, 0, 0, D(0)])
    for row in rows:
        counts = (row.requests, row.input_tokens, row.cached_tokens, row.written_tokens, row.output_tokens, row.usd)
        at = groups[row.day, row.model, row.key if keyed else None]
        for n, count in enumerate(counts):
            at[n] += count or 0
    return dict(groups)


@pytest.mark.parametrize("name", FORMATS)
def test_a_known_format_is_read_as_it_was_booked(tmp_path, name):
    """Found out by its columns; every day, model and key with its requests, tokens and dollars, as far as the format has them."""
    said, make, rows, has = FORMATS[name]
    found = read_invoice(write(tmp_path / "export", make(rows)))
    assert found.format == said
    keyed = not name.startswith(("openai costs", "anthropic costs"))
    theirs, ours = summed(found.rows, keyed=keyed), summed(invoice(rows, **has), keyed=keyed)
    assert theirs.keys() == ours.keys()
    for at, sums in ours.items():
        assert theirs[at][:5] == sums[:5]
        assert theirs[at][5] == pytest.approx(sums[5], abs=D("1e-15"))


def test_dollars_of_a_day_have_no_model(tmp_path):
    """OpenAI's ungrouped costs: a row a day."""
    found = read_invoice(write(tmp_path / "costs.csv", ledger.openai_costs_csv(OPENAI)))
    assert found.format == "OpenAI costs"
    assert {row.model for row in found.rows} == {None}
    assert sum(row.usd for row in found.rows) == pytest.approx(sum(r.usd for r in OPENAI), abs=D("1e-12"))


def test_any_other_csv_is_read_by_declared_columns_and_its_others_are_named(tmp_path):
    """German headers, semicolons, dollars with their sign; without the declaration an error that names the columns there are."""
    path = write(tmp_path / "rechnung.csv", ledger.own_csv(OPENAI))
    columns = {"day": "Datum", "model": "Modell", "requests": "Anfragen", "input_tokens": "Eingabe", "usd": "Betrag"}
    found = read_invoice(path, columns)
    assert (found.format, found.unread) == ("CSV", ("Ausgabe",))
    want = invoice(OPENAI, cents=True)
    assert [(r.day, r.model, r.requests, r.input_tokens, r.usd) for r in found.rows] == [
        (r.day, r.model, r.requests, r.input_tokens, r.usd) for r in want
    ]
    assert all(row.is_rounded for row in found.rows)
    with pytest.raises(ConfigError) as error:
        read_invoice(path)
    assert "Datum, Modell, Anfragen" in error.value.value
    assert "--column day=NAME" in error.value.advice
    with pytest.raises(ConfigError) as error:
        read_invoice(path, {**columns, "output_tokens": "Ausgaben"})
    assert error.value.value == "output_tokens=Ausgaben"


def test_our_own_names_need_no_declaration(tmp_path):
    """day, model, usd and the rest as they are called here; a day of another zone is UTC's; a thousand has its comma."""
    text = 'day,model,key,usd,output_tokens\n2026-11-03T23:30:00-02:00,m,k,"1,234.50",\n2026-11-03,,,,7\n'
    found = read_invoice(write(tmp_path / "a.csv", text))
    assert found.rows == (
        InvoiceRow(FIRST.replace(day=4), "m", "k", usd=D("1234.50")),
        InvoiceRow(FIRST, None, None, output_tokens=7),
    )


def test_amounts_are_read_as_they_are_written(tmp_path):
    """A JSON number of 25 digits keeps them: no float in between."""
    amount = "0.1234567890123456789012345"
    text = ledger.openai_costs_json(OPENAI[:1])
    page = json.loads(text)
    page["data"][0]["results"] = [{**page["data"][0]["results"][0], "amount": {"value": "@", "currency": "usd"}}]
    found = read_invoice(write(tmp_path / "a.json", json.dumps(page).replace('"@"', amount)))
    assert [str(row.usd) for row in found.rows] == [amount]


PAGE = ledger.openai_usage_json(OPENAI)
BROKEN = {
    "no file": (None, "cannot be read"),
    "empty": ("", "no known format"),
    "not json": ("{", "not JSON"),
    "another json": ('{"bill": 3}', "no known format"),
    "another result": (
        PAGE.replace("num_model_requests", "images").replace('"input_tokens"', '"pixels"'),
        "no known format",
    ),
    "more pages": (PAGE.replace('"has_more": false', '"has_more": true'), "not whole"),
    "weeks": (PAGE.replace('"end_time": 1', '"end_time": 9'), "longer than a day"),
    "euros": (ledger.openai_costs_json(OPENAI).replace('"usd"', '"eur"'), "cannot be"),
    "half a token": (PAGE.replace('"output_tokens": ', '"output_tokens": 0.5', 1), "cannot be"),
    "no number": ("day,usd\n2026-11-03,free\n", "cannot be"),
    "infinite": ("day,usd\n2026-11-03,inf\n", "cannot be"),
    "no day": ("day,usd\nyesterday,3\n", "cannot be"),
    "no dollars": ("day,model\n2026-11-03,m\n", "no known format"),
    "half a quote": ('day,usd\n2026-11-03,"3\n', "not CSV"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_three_lines(tmp_path, name):
    """No file, no format, not whole, another currency, values that cannot be: what, which, and what to try."""
    text, what = BROKEN[name]
    path = tmp_path / "a" if text is None else write(tmp_path / "a", text)
    with pytest.raises(ConfigError, match=what) as error:
        read_invoice(path)
    assert len(str(error.value).splitlines()) == 3


def test_several_pages_are_one_export(tmp_path):
    """A list of pages, of which all but the last say that there are more."""
    more = PAGE.replace('"has_more": false', '"has_more": true')
    assert len(read_invoice(write(tmp_path / "a", f"[{more}, {PAGE}]")).rows) == 2 * len(invoice(OPENAI))
