"""`harness cost tokens`: the exchange rate between tokenizers, measured on the user's texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from harness.base import clock
from harness.base.errors import ConfigError
from harness.cli.results import as_json_option, emit, price_ref
from harness.cli.results import console as terminal

_MIXED = "mixed tokenizers: $/M tokens do not compare between them; $/request and $/M characters do"


def _named(words: Sequence[str], what: str, example: str) -> list[tuple[str, str]]:
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{what} is NAME=..", word, example)
        pairs.append((name, value))
    return pairs


@click.command("tokens")
@click.argument("texts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--tokenizer", "tokenizers", multiple=True, required=True, metavar="NAME=PATH", help="A tokenizer.json, or a model's directory; the first is what ratios are over."
)  # fmt: skip
@click.option(
    "--price", "prices", multiple=True, metavar="NAME=PROVIDER/MODEL", help="Price the texts in NAME's tokens."
)
@as_json_option
def tokens_command(
    texts: tuple[Path, ...], tokenizers: tuple[str, ...], prices: tuple[str, ...], as_json: bool
) -> None:
    """Tokens, $/request and $/million characters of your own TEXTS: a file is a request, of a .jsonl each line is.

    Lines are strings, or objects with prompt (text, input, messages) and, to be counted as output, completion (output, response).
    """
    from harness.planner import token_exchange as model
    from harness.price.hosted import find_price

    paths = _named(tokenizers, "--tokenizer", "--tokenizer qwen3=models/Qwen3-8B/tokenizer.json")
    if len(dict(paths)) < len(paths):
        raise ConfigError("a tokenizer is named twice", ", ".join(name for name, _ in paths), "give each its own name")
    refs = _named(prices, "--price", "--price qwen3=openrouter/qwen/qwen3-8b")
    if unknown := [name for name, _ in refs if name not in dict(paths)]:
        raise ConfigError("--price of a tokenizer that is not given", unknown[0], f"known: {', '.join(dict(paths))}")
    requests = model.read_requests(texts)
    counts = model.count_tokens(requests, {name: model.load_tokenizer(Path(path)) for name, path in paths})
    by_name, characters = {c.tokenizer: c for c in counts}, model.characters_of(requests)
    now = clock.utc_now()
    priced = [model.price_texts(by_name[name], find_price(price_ref(ref), now), characters) for name, ref in refs]
    mixed = len({name for name, _ in refs}) > 1 and len({c.tokens for c in counts}) > 1
    if as_json:
        shown = [{k: getattr(c, k) for k in model.TokenCount.__slots__ if k != "usage"} for c in counts]
        emit({"requests": len(requests), "characters": characters, "tokenizers": shown, "prices": priced, "warnings": [_MIXED] if mixed else []})  # fmt: skip
        return
    click.echo(f"{len(requests):,} requests, {characters:,} characters")
    _print(counts, priced)
    for count in counts[1:]:
        click.echo(
            f"in a scenario: tokenizer_ratio: {count.ratio:.4g} for {count.tokenizer} against {counts[0].tokenizer}"
        )
    if mixed:
        click.echo(f"warning: {_MIXED}")


def _print(counts: Any, priced: Any) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (
        "tokenizer",
        "tokens",
        "tokens/1,000 characters",
        f"x {counts[0].tokenizer}",
        "of 5-95 % of requests",
    ):
        table.add_column(heading, justify="left" if heading == "tokenizer" else "right")
    for c in counts:
        table.add_row(c.tokenizer, f"{c.tokens:,}", f"{c.tokens_per_1000_characters:.1f}", f"{c.ratio:.4f}", f"{c.ratio_low:.3f}-{c.ratio_high:.3f}")  # fmt: skip
    terminal().print(table)
    if not priced:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("price", "in tokens of", "$/request", "$/M characters", "$/M tokens"):
        table.add_column(heading, justify="right" if heading.startswith("$") else "left")
    for p in priced:
        table.add_row(p.price, p.tokenizer, *(f"{v:.4g}" for v in (p.usd_per_request, p.usd_per_million_characters, p.usd_per_million_tokens)))  # fmt: skip
    terminal().print(table)
