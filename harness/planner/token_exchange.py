"""How many tokens other tokenizers make of the same text, measured on the user's own requests with local tokenizer files.

$/M tokens of two tokenizers must not be compared: one makes 291 tokens of a Hindi text, another 1,037. What compares is dollars per
request and per million characters (Unicode code points) of the same texts. Special tokens and chat templates are not counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.base.documents import exists
from harness.base.errors import ConfigError
from harness.base.quantities import Number, above_zero, exact, to_decimal
from harness.price.hosted import HostedPrice, bill

CountTokens = Callable[[Sequence[str]], list[int]]  # tokens of each text

_INPUT_KEYS, _OUTPUT_KEYS = ("prompt", "text", "input"), ("output", "completion", "response")


@dataclass(frozen=True, slots=True)
class RequestText:
    """What was asked and, where known, what was answered."""

    prompt: str
    reply: str = ""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """One tokenizer over all texts. `ratio`: its tokens over the first tokenizer's; low and high: 5th and 95th percentile over texts."""

    tokenizer: str
    usage: tuple[tuple[int, ...], ...]  # a request: input, 0 cached, output, 0 reasoning tokens
    tokens: int
    tokens_per_1000_characters: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, slots=True)
class TextPrice:
    """The same texts at one price, in the price's own tokens."""

    tokenizer: str
    price: str
    usd_per_request: Decimal
    usd_per_million_characters: Decimal
    usd_per_million_tokens: Decimal
    inputs: Mapping[str, str]


def load_tokenizer(path: Path) -> CountTokens:
    """A Hugging Face tokenizer.json, or a directory that holds one; nothing is downloaded.

    Raises ConfigError: the package `tokenizers` is not installed, or the file is not a tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            "tokenizer files need the package tokenizers", "not installed", "pip install tokenizers; vLLM brings it too"
        ) from None
    file = path / "tokenizer.json" if exists(path) and path.is_dir() else path
    if not (exists(file) and file.is_file()):
        raise ConfigError("no tokenizer file", file, "a tokenizer.json as it comes with the model's weights")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises a bare Exception
        raise ConfigError("not a tokenizer file", file, str(error)[:200]) from None
    tokenizer.no_truncation()  # a file may say how its trainer cut texts: that is not how they are billed
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(one.ids) for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return count


def _of_json(value: Any, where: str) -> RequestText:
    if isinstance(value, str):
        return RequestText(value)
    if isinstance(value, dict):
        words = {k: v for k, v in value.items() if isinstance(v, str)}
        prompt = next((words[k] for k in _INPUT_KEYS if k in words), None)
        if prompt is None and isinstance(value.get("messages"), list):
            contents = [m.get("content") for m in value["messages"] if isinstance(m, dict)]
            prompt = "\n".join(s for s in contents if isinstance(s, str))
        if prompt is not None:
            return RequestText(prompt, next((words[k] for k in _OUTPUT_KEYS if k in words), ""))
    advice = (
        f"a JSON string, or an object with one of {', '.join(_INPUT_KEYS)} or messages, and {', '.join(_OUTPUT_KEYS)}"
    )
    raise ConfigError("line holds no text", where, advice)


def read_requests(paths: Sequence[Path]) -> list[RequestText]:
    """A file is a request; of a .jsonl file each line is one. Raises ConfigError for what cannot be read or is empty."""
    requests: list[RequestText] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("text cannot be read", path, f"{error}; UTF-8 files") from None
        if path.suffix != ".jsonl":
            requests.append(RequestText(text))
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ConfigError("line is not JSON", f"{path}:{number}", str(error)) from None
            requests.append(_of_json(value, f"{path}:{number}"))
    if not any(one.prompt or one.reply for one in requests):
        raise ConfigError("no text to count", ", ".join(map(str, paths)) or "no file", "files with your own requests")
    return requests


def count_tokens(requests: Sequence[RequestText], tokenizers: Mapping[str, CountTokens]) -> tuple[TokenCount, ...]:
    """Tokens of every request by every tokenizer; ratios are over the first one. Raises ConfigError for no tokens at all."""
    characters = characters_of(requests)
    counts: list[TokenCount] = []
    first: list[int] = []
    for name, count in tokenizers.items():
        prompts = count([one.prompt for one in requests])
        replies = count([one.reply for one in requests])
        sums = [i + o for i, o in zip(prompts, replies, strict=True)]
        if not sum(sums):
            raise ConfigError("tokenizer makes no token of these texts", name, "is it the model's own tokenizer.json?")
        first = first or sums
        ratios = sorted(mine / base for mine, base in zip(sums, first, strict=True) if base) or [1.0]
        counts.append(
            TokenCount(
                name, tuple((i, 0, o, 0) for i, o in zip(prompts, replies, strict=True)), sum(sums), sum(sums) / characters * 1000,
                sum(sums) / sum(first), ratios[int(0.05 * (len(ratios) - 1))], ratios[-1 - int(0.05 * (len(ratios) - 1))],
            )
        )  # fmt: skip
    return tuple(counts)


def characters_of(requests: Sequence[RequestText]) -> int:
    return sum(len(one.prompt) + len(one.reply) for one in requests)


def price_texts(count: TokenCount, price: HostedPrice, characters: int) -> TextPrice:
    """What the texts cost at a price, each request priced by itself."""
    total = bill(price, count.usage).total_usd
    return TextPrice(
        count.tokenizer, price.name, total / len(count.usage), total / characters * 1_000_000, total / count.tokens * 1_000_000,
        price.inputs,
    )  # fmt: skip


def same_tokenizer(own: str | None, hosted: str | None, ratio: Number | None) -> Decimal:
    """Hosted tokens over own tokens of the same text. Raises ConfigError where the tokenizers differ and no ratio was measured."""
    if ratio is not None:
        return to_decimal(exact(above_zero(ratio, "tokenizer ratio"), "tokenizer ratio"))
    if own is not None and own == hosted:
        return Decimal(1)
    raise ConfigError(
        "mixed tokenizers without an exchange rate",
        f"{own or 'not given'} and {hosted or 'not given'}",
        "measure tokenizer_ratio on your own texts (harness cost tokens), or compare the same model",
    )
