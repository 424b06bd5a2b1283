"""A hosted API as a program of this machine: four dialects, streamed, with a key, limits and the quirks that providers have."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from tests.fakes import local_http

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
_API = {path: api for api, path in PATHS.items()}
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_OWN = {"model", "messages", "prompt", "input", "stream", "stream_options", "temperature", *_LIMITS}


@dataclass
class Exchange:
    """Stamps of CLOCK_MONOTONIC: the head of a request had come; the first byte of its answer was about to go out."""

    came_ns: int
    answered_ns: int = 0


@dataclass
class Api:
    """`replies`: what the first POSTs get instead, (status, body). `ends_after`: tokens after which a reply ends by itself; `ignore_eos`:
    honoured | ignored | refused. `takes_s`: between a request and its answer, at least. `posts`: what was asked, (path, body, headers in
    lower case); `exchanges`: of all requests, in the order in which they came."""

    apis: tuple[str, ...] = ("chat", "completions", "responses", "messages")
    models: tuple[str, ...] = ("m",)
    key: str | None = None
    auth: str = "bearer"
    public_models: bool = False
    lists_models: bool = True
    replies: list[tuple[int, Any]] = field(default_factory=list)
    limits: tuple[str, ...] = _LIMITS
    temperature: bool = True
    stream_options: bool = True
    usage: str = "asked"  # asked | always | never
    cached: int | None = None
    reasoning: int | None = None
    ignore_eos: str = "honoured"
    strict: bool = False  # a field that it does not know is refused
    ends_after: int = 2
    streams: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    clock_off_s: float = 0.0
    takes_s: float = 0.0
    no_path: int = 404  # status of a dialect that is not there
    held: threading.Event | None = None  # no reply is made until it is set
    lacking: int = 400  # status of a request without a prompt
    takes_nothing: bool = False  # a request without a prompt gets a reply
    gets: list[str] = field(default_factory=list)
    posts: list[tuple[str, dict, dict]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    billed: int = 0  # replies


def error(message: str, code: str | None = None, kind: str = "invalid_request_error") -> dict:
    return {"error": {"message": message, "type": kind, "code": code}}


_NEEDS = {"chat": "messages", "completions": "prompt", "responses": "input", "messages": "messages"}


def _problem(api: Api, name: str, body: dict) -> dict | None:
    """Why the body is refused with 400."""
    if _NEEDS[name] not in body and not api.takes_nothing:
        return error(f"Missing required parameter: '{_NEEDS[name]}'.", "missing_required_parameter")
    if body.get("model") not in api.models:
        return error(f"The model `{body.get('model')}` does not exist", "model_not_found")
    for key in body:
        if key in _LIMITS and name == "chat" and key not in api.limits:
            return error(f"Unsupported parameter: '{key}' is not supported with this model.", "unsupported_parameter")
    if "temperature" in body and not api.temperature:
        return error("Unsupported value: 'temperature' does not support 0 with this model.", "unsupported_value")
    if "stream_options" in body and not api.stream_options:
        return error("body.stream_options: Extra inputs are not permitted", "extra_forbidden")
    if "ignore_eos" in body and api.ignore_eos == "refused":
        return error("Unknown parameter: 'ignore_eos'.", "unknown_parameter")
    if api.strict and (more := sorted(set(body) - _OWN - {"ignore_eos"})):
        return error(f"Unknown parameter: '{more[0]}'.", "unknown_parameter")
    return None


def _usage(api: Api, name: str, tokens: int) -> dict:
    if name in ("chat", "completions"):
        usage: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
        parts = ("prompt_tokens_details", "completion_tokens_details")
    else:
        usage = {"input_tokens": 9, "output_tokens": tokens}
        parts = ("input_tokens_details", "output_tokens_details")
    if name == "messages":
        return usage if api.cached is None else usage | {"cache_read_input_tokens": api.cached}
    if api.cached is not None:
        usage[parts[0]] = {"cached_tokens": api.cached}
    if api.reasoning is not None:
        usage[parts[1]] = {"reasoning_tokens": api.reasoning}
    return usage


def _event(data: Any, kind: str | None = None) -> bytes:
    return (f"event: {kind}\n" if kind else "").encode() + f"data: {json.dumps(data)}\n\n".encode()


def stream_of(api: Api, name: str, body: dict) -> bytes:
    """The events of one reply."""
    wanted = next((body[key] for key in _LIMITS if key in body), 16)
    exact = body.get("ignore_eos") and api.ignore_eos == "honoured"
    tokens = wanted if exact else min(wanted, api.ends_after)
    finish = "length" if tokens == wanted else "stop"
    usage = _usage(api, name, tokens)
    asked = api.usage == "always" or (api.usage == "asked" and (body.get("stream_options") or {}).get("include_usage"))
    texts = [" w"] * tokens
    if name in ("chat", "completions"):
        made = [{"delta": {"content": text}} if name == "chat" else {"text": text} for text in texts]
        events = [_event({"choices": [{"index": 0, "finish_reason": None} | one]}) for one in made]
        last = {"delta": {}} if name == "chat" else {"text": ""}
        events.append(_event({"choices": [{"index": 0, "finish_reason": finish} | last]}))
        events += [_event({"choices": [], "usage": usage})] if asked else []
        return b"".join([*events, b"data: [DONE]\n\n"])
    if name == "responses":
        events = [_event({"type": "response.created", "response": {"id": "r", "usage": None}}, "response.created")]
        events += [
            _event({"type": "response.output_text.delta", "delta": text}, "response.output_text.delta")
            for text in texts
        ]
        done = (
            {"status": "completed"}
            if finish == "stop"
            else {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        )
        kind = "response.completed" if finish == "stop" else "response.incomplete"
        return b"".join([*events, _event({"type": kind, "response": done | {"usage": usage}}, kind)])
    start = {"type": "message_start", "message": {"id": "m", "usage": usage | {"output_tokens": 1}}}
    events = [
        _event(start, "message_start"),
        _event(
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            "content_block_start",
        ),
    ]
    events += [
        _event(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            "content_block_delta",
        )
        for text in texts
    ]
    reason = "max_tokens" if finish == "length" else "end_turn"
    events.append(
        _event(
            {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": tokens}},
            "message_delta",
        )
    )
    return b"".join([*events, _event({"type": "message_stop"}, "message_stop")])


def handler(api: Api) -> type[local_http.QuietHandler]:
    lock = threading.Lock()

    class Handler(local_http.QuietHandler):
        def date_time_string(self, timestamp=None):
            return formatdate(time.time() + api.clock_off_s, usegmt=True)

        def parse_request(self):
            parsed = super().parse_request()
            self.exchange = Exchange(time.monotonic_ns())
            with lock:
                api.exchanges.append(self.exchange)
            return parsed

        def reply(self, status: int, body: bytes, kind: str):
            time.sleep(api.takes_s)
            self.exchange.answered_ns = time.monotonic_ns()
            self.answer(status, body, {"content-type": kind, **api.headers})

        def say(self, status: int, value: Any):
            self.reply(status, value if isinstance(value, bytes) else json.dumps(value).encode(), "application/json")

        def has_key(self) -> bool:
            given = self.headers.get("authorization" if api.auth == "bearer" else api.auth, "")
            return api.key is None or given == (f"Bearer {api.key}" if api.auth == "bearer" else api.key)

        def do_GET(self):
            api.gets.append(self.path)
            if not self.path.endswith("/models") or not api.lists_models:
                self.say(404, error("no such path"))
            elif not api.public_models and not self.has_key():
                self.say(401, error("Incorrect API key provided", "invalid_api_key"))
            else:
                self.say(200, {"data": [{"id": model} for model in api.models]})

        def do_POST(self):
            body = json.loads(self.body())
            with lock:
                api.posts.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                reply = api.replies.pop(0) if api.replies else None
            name = _API.get(self.path)
            if name not in api.apis:
                self.say(api.no_path, error("no such path"))
            elif not self.has_key():
                self.say(401, error("Incorrect API key provided", "invalid_api_key"))
            elif reply is not None:
                self.say(*reply)
            elif (problem := _problem(api, name, body)) is not None:
                own = {"model_not_found": 404, "missing_required_parameter": api.lacking}
                self.say(own.get(problem["error"]["code"], 400), problem)
            else:
                if api.held is not None:
                    api.held.wait(60)
                with lock:
                    api.billed += 1
                self.generate(name, body)

        def generate(self, name: str, body: dict):
            if body.get("stream") and api.streams:
                self.reply(200, stream_of(api, name, body), "text/event-stream")
            else:
                self.say(
                    200,
                    {
                        "choices": [{"index": 0, "message": {"content": " w"}, "finish_reason": "stop"}],
                        "usage": _usage(api, name, 1),
                    },
                )

    return Handler


@contextmanager
def serving(api: Api, certificate: Path | None = None) -> Iterator[str]:
    """Serve on a free loopback port; yields the URL of /v1. `certificate`: a PEM file with its key, for TLS."""
    with local_http.serving(handler(api), certificate) as root:
        yield f"{root}/v1"
