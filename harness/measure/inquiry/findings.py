"""What an inquiry found, and the preset that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from harness.config.preset import KEY_SOURCES, PresetSpec
from harness.config.target import TargetSpec

_ABSENT = (404, 405, 501)
_OF_INTEREST = re.compile(
    r"(?:x-|anthropic-)?ratelimit.*|retry-after|(?:x-)?request-id|server|via|openai-(?:processing-ms|version)|x-ms-region"
    r"|x-envoy-upstream-service-time|x-litellm-(?:version|model-.*|response-duration-ms|overhead-duration-ms|key-.*limit)|x-groq-region|cf-ray"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found without cost: the model that is asked, and dialects whose path is there."""

    model: str
    served: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """One reply. `fields`: of the body that was taken. `usage`: its numbers by their path. Times in seconds from the send."""

    api: str
    limit: str
    fields: tuple[str, ...]
    streamed: bool
    usage: Mapping[str, float]
    headers: Mapping[str, str]
    prompt_tokens: int | None
    output_tokens: int | None
    finish_reason: str | None
    chunks: int
    reasoning_chunks: int
    ttft_s: float | None


@dataclass(slots=True)
class Findings:
    """`paths`: dialect -> status of a request without prompt. `refused`: field -> what the API said. `first`: as a run asks; `second`: with
    `ignore_eos`, without `stream_options`; `third`: in another dialect."""

    url: str
    as_of: str
    key_sent: bool
    model: str = ""
    api: str = ""
    auth: str = "bearer"
    headers_needed: dict[str, str] = field(default_factory=dict)
    models_status: int = 0
    models: int = 0
    first_answer_s: float | None = None  # DNS, TCP and TLS included
    round_trip_s: float | None = None
    paths: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    generations: int = 0
    first: Seen | None = None
    second: Seen | None = None
    third: Seen | None = None
    trouble: str = ""

    @property
    def seen(self) -> list[Seen]:
        return [one for one in (self.first, self.second, self.third) if one is not None]

    @property
    def apis(self) -> dict[str, str]:
        """dialect -> replied | there | no; `there`: its path answers, nothing was asked of it."""
        replied = {one.api for one in self.seen}
        return {
            api: "replied" if api in replied else "no" if status in _ABSENT else "there"
            for api, status in self.paths.items()
        }

    @property
    def ignore_eos(self) -> str:
        """honoured | no effect | taken | refused | not asked; `taken`: whether it has an effect was not to be seen."""
        if "ignore_eos" in self.refused:
            return "refused"
        if self.second is None or "ignore_eos" not in self.second.fields or self.first is None:
            return "not asked"
        if self.second.finish_reason not in _BY_LIMIT:
            return "no effect"
        return "taken" if self.first.finish_reason in _BY_LIMIT else "honoured"

    @property
    def usage_comes(self) -> str:
        """asked | always | never, in the dialect that is chosen."""
        told = [one for one in self.seen if one.api == self.api and one.usage]
        if any("stream_options" not in one.fields for one in told):
            return "always"
        return "asked" if told else "never"

    def usage_field(self, *words: str) -> str | None:
        """Path of the first number of usage whose last name has one of the words, in the dialect that is chosen."""
        paths = (path for one in self.seen if one.api == self.api for path in one.usage)
        return next((path for path in paths if any(word in path.rpartition(".")[2] for word in words)), None)

    @property
    def limits_taken(self) -> list[str]:
        """Fields that bounded a reply of the dialect that is chosen."""
        return list(dict.fromkeys(one.limit for one in self.seen if one.api == self.api))

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that say something of limits, ways and times."""
        return {n: v for one in self.seen for n, v in one.headers.items() if _OF_INTEREST.fullmatch(n)}

    @property
    def limit_headers(self) -> str | None:
        family = (one for one in ("anthropic-ratelimit", "x-ratelimit") if any(n.startswith(one) for n in self.headers))
        return next(family, None)

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, what was found), for a table."""
        yield "model", f"{self.model} ({self.models} listed by /models)" if self.models else self.model
        for api, how in self.apis.items():
            yield f"dialect {api}", how
        yield "streams", _list(f"{one.api}: {f'{one.chunks} chunks' if one.streamed else 'no'}" for one in self.seen)
        yield "usage", {"asked": "with stream_options", "always": "always", "never": "never"}[self.usage_comes]
        for what, words in _USAGE_FIELDS.items():
            yield f"usage: {what}", self.usage_field(*words) or "-"
        yield "output limit", _list(self.limits_taken)
        yield "ignore_eos", self.ignore_eos
        yield "fields refused", _list(self.refused) or "none"
        yield "reasoning streams", "yes" if any(one.reasoning_chunks for one in self.seen) else "not seen"
        if self.key_sent:
            yield "key goes in", self.auth
        for name, value in self.headers.items():
            yield f"header {name}", value
        yield "first answer", _seconds(self.first_answer_s)
        yield "round trip of /models", _seconds(self.round_trip_s)
        yield "time to first token", _list(f"{one.api} {_seconds(one.ttft_s)}" for one in self.seen)
        yield "asked", f"{self.requests} requests, {self.generations} of them with a reply"

    def preset(self, spec: TargetSpec, price_provider: str | None) -> dict[str, Any]:
        """As a preset's file has it."""
        api = self.api
        absent = {name: None for name in self.refused if name not in ("ignore_eos", *_LIMIT_FIELDS)}
        target: dict[str, Any] = {"url": self.url, "api": api, "auth": self.auth}
        target |= {key: value for key in KEY_SOURCES if (value := getattr(spec, key)) is not None}
        target |= {"headers": self.headers_needed} if self.headers_needed else {}
        target |= {"request": absent} if absent else {}
        target |= {"output_limit": self.limits_taken[0]} if self.limits_taken else {}
        target.pop("api_key_file", None)
        target.pop("api_key_command", None)
        usage = {what: path for what, words in _USAGE_FIELDS.items() if (path := self.usage_field(*words))}
        host = urlsplit(self.url).netloc
        made = {
            "preset": re.sub(r"[^A-Za-z0-9.-]+", "-", host),
            "title": f"{host}, found out with {self.model}",
            "as_of": self.as_of,
            "read": "inquiry",
            "sources": [self.url],
            "target": target,
            "price_provider": price_provider,
            "permits": {
                "apis": [name for name, how in self.apis.items() if how != "no"],
                "ignore_eos": {"honoured": True, "taken": None, "not asked": None}.get(self.ignore_eos, False),
                "temperature": "temperature" not in self.refused,
                "stream_options": "stream_options" not in self.refused and api in ("chat", "completions"),
            },
            "usage": {"comes": self.usage_comes} | usage,
            "limit_headers": self.limit_headers,
            "notes": [*(f"{name} is refused: {said}" for name, said in self.refused.items())]
            + [f"{name} answers; no reply was asked for" for name, how in self.apis.items() if how == "there"],
        }
        return PresetSpec.model_validate(made).model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {
            "target": target  # nulls in `request` mean something
        }


_BY_LIMIT = ("length", "max_tokens", "max_output_tokens", "incomplete")  # finish reasons
_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_USAGE_FIELDS = {
    "cached": ("cached_tokens", "cache_read", "cache_hit"),
    "cache_write_5m": ("ephemeral_5m", "cache_write_tokens", "cache_creation_input"),
    "cache_write_1h": ("ephemeral_1h",),
    "reasoning": ("reasoning_tokens", "thinking_tokens"),
}


def _list(words: Any) -> str:
    return ", ".join(words)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.1f} ms"
