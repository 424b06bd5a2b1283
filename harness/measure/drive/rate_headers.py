"""What a reply's head says of the account's limits.

Read are (2026-11-26):
- x-ratelimit-{limit,remaining,reset}-{requests,tokens}: OpenAI https://platform.openai.com/docs/guides/rate-limits, Azure, Groq
  https://console.groq.com/docs/rate-limits (its requests are a day's, its tokens a minute's), LiteLLM; with the time in the name at Mistral
  and Cerebras; Fireworks parts tokens into prompt and generated.
- anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}, a minute's, reset as an RFC 3339 time:
  https://docs.anthropic.com/en/api/rate-limits
- RateLimit and RateLimit-Policy, and the RateLimit-{Limit,Remaining,Reset} of its earlier drafts:
  https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
- retry-after (RFC 9110, 10.2.3) and retry-after-ms (Azure, OpenAI's own SDKs).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from harness.base import clock
from harness.records import LimitSample

_KINDS = {
    "requests": "requests",
    "req": "requests",
    "tokens": "tokens",
    "input-tokens": "input_tokens",
    "tokens-prompt": "input_tokens",
    "output-tokens": "output_tokens",
    "tokens-generated": "output_tokens",
}
_WINDOWS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_KIND = "|".join(sorted(_KINDS, key=len, reverse=True))
_WINDOW = "|".join(_WINDOWS_S)
_NAMES = (
    re.compile(
        rf"(?P<source>x-ratelimit)-(?P<what>limit|remaining|reset)-(?P<kind>{_KIND})(?:-(?P<window>{_WINDOW}))?"
    ),
    re.compile(rf"(?P<source>anthropic)-ratelimit-(?P<kind>{_KIND})-(?P<what>limit|remaining|reset)(?P<window>)"),
    re.compile(r"(?P<source>x-ratelimit|ratelimit)-(?P<what>limit|remaining|reset)(?P<kind>)(?P<window>)"),
)
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_UNITS_S = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_NUMBER = re.compile(r"\d{1,18}(?:\.\d{1,20})?")
_ITEM = re.compile(r'"?(?P<name>[\w.-]*)"?\s*;\s*(?P<parameters>[^,]*)')
_PARAMETER = re.compile(r"\b([a-z]+)\s*=\s*(\d{1,18})")
_MOST_S = 400 * 86_400.0  # a reset further away is none
_FIRST_EPOCH_S, _FIRST_EPOCH_MS = 1e9, 1e12  # from there on a number is a time and no duration


def tells(name: str) -> bool:
    """Whether a header of this name (lower case) may be about limits."""
    return "ratelimit" in name or name.startswith("retry-after")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the reply asks to wait; a moment in the past is 0. None where it asks for none, or in no known way."""
    if _NUMBER.fullmatch(ms := headers.get("retry-after-ms", "").strip()):
        return _bounded(float(ms) / 1000)
    value = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(value):
        return _bounded(float(value))
    try:
        return _bounded(max(0.0, (parsedate_to_datetime(value) - _now(headers)).total_seconds())) if value else None
    except (ValueError, TypeError, OverflowError):
        return None


def read_limits(headers: Mapping[str, str], seq: int, stamp_ns: int) -> list[LimitSample]:
    """Every limit that the head tells something of, by (kind, window), in no order."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, value in headers.items():
        if not tells(name):
            continue
        for pattern in _NAMES:
            if match := pattern.fullmatch(name):
                kind = _KINDS.get(match["kind"], "requests")
                found.setdefault((match["source"], kind, match["window"] or ""), {})[match["what"]] = value
                break
    samples = [_sample(*key, said, headers, seq, stamp_ns) for key, said in found.items()]
    samples += _structured(headers, seq, stamp_ns)
    return [sample for sample in samples if (sample.limit, sample.remaining) != (None, None)]


def _sample(
    source: str, kind: str, window: str, said: Mapping[str, str], headers: Mapping[str, str], seq: int, stamp_ns: int
) -> LimitSample:
    window_s = _WINDOWS_S.get(window, 60.0 if source == "anthropic" else None)
    if source == "ratelimit":  # the earlier drafts: limit may hold its policy, `100, 100;w=60`
        source, window_s = "ietf", _window_of(f"{said.get('limit', '')},{headers.get('ratelimit-policy', '')}")
    limit, remaining = _count(said.get("limit", "").partition(",")[0]), _count(said.get("remaining", ""))
    return LimitSample(
        stamp_ns, seq, kind, window_s, limit, remaining, _reset_s(said.get("reset", ""), headers), source
    )


def _structured(headers: Mapping[str, str], seq: int, stamp_ns: int) -> Iterator[LimitSample]:
    """RateLimit: "name";r=50;t=30 with RateLimit-Policy: "name";q=100;w=60."""
    policies = dict(_items(headers.get("ratelimit-policy", "")))
    for name, values in _items(headers.get("ratelimit", "")):
        policy = policies.get(name, {})
        kind = next((_KINDS[word] for word in _KINDS if word in name.lower()), "requests")
        window_s = float(policy["w"]) if policy.get("w") else None
        reset_s = float(values["t"]) if "t" in values else None
        yield LimitSample(stamp_ns, seq, kind, window_s, policy.get("q"), values.get("r"), reset_s, "ietf")


def _items(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    for match in _ITEM.finditer(text):
        yield match["name"], {name: int(value) for name, value in _PARAMETER.findall(match["parameters"])}


def _window_of(policies: str) -> float | None:
    """Of the first policy that has one."""
    return next((float(values["w"]) for _, values in _items(policies) if values.get("w")), None)


def _count(text: str) -> int | None:
    return int(float(text)) if _NUMBER.fullmatch(text := text.strip()) else None


def _reset_s(text: str, headers: Mapping[str, str]) -> float | None:
    """`12`, `6m0s`, `120ms`, a Unix time in s or ms, an RFC 3339 time: seconds from the reply's own date on."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number < _FIRST_EPOCH_S:
            return _bounded(number)
        epoch_s = number / 1000 if number >= _FIRST_EPOCH_MS else number
        return _bounded(max(0.0, epoch_s - _now(headers).timestamp()))
    if text and (match := _DURATION.fullmatch(text)):
        return _bounded(sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return _bounded(max(0.0, (at - _now(headers)).total_seconds()))


def _now(headers: Mapping[str, str]) -> datetime:
    """The server's clock, by whose time it speaks; ours where it does not tell."""
    try:
        return parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return clock.utc_now()


def _bounded(seconds: float) -> float | None:
    return seconds if seconds <= _MOST_S else None
