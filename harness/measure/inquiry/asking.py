"""What an API does, found out by asking it: at most three short replies that cost something, and questions that cost nothing.

Free are GET /models, requests that lack what they must have (404: no such path; 400: there is one), and requests that are refused
because of one field, which is then left out. What comes of it is a preset (`config/preset.py`) of kind `inquiry`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import httpx

from harness.base import clock, redaction
from harness.base.errors import RefusedError, TargetError
from harness.base.loopback import is_loopback
from harness.config.target import TargetSpec, place_of
from harness.measure.control_request import json_of, request
from harness.measure.drive import dialect
from harness.measure.drive.sse import SseError, SseParser
from harness.measure.inquiry.findings import Findings, Opened, Seen
from harness.measure.inquiry.purse import Purse, purse_for
from harness.measure.refusals import CREDIT, KEY, MODEL, refusal_of_status
from harness.measure.targets import identity
from harness.measure.targets.key import read_key
from harness.price.provider import provider_at
from harness.records import Endpoint, PlannedRequest, Prompt

GENERATIONS = 3  # replies that cost something, at most
OUTPUT_TOKENS = 16  # of each, at most: the fewest that OpenAI's Responses take
PROMPT = "Answer with the single word: yes"
PROMPT_TOKENS = 64  # more than PROMPT and any template's words have
APIS = ("chat", "messages", "responses", "completions")  # asked first what most speak
_TRIES = 6  # fields that may be left out until a request is taken
_REPLY_S = 60.0
_ABSENT = (404, 405, 501)
_LIMITS = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
_MAY_GO = ("ignore_eos", "stream_options", "temperature", "store")  # fields of ours that an API may not take


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes
    sent_ns: int
    pieces: list[tuple[int, bytes]] = field(repr=False)

    @property
    def said(self) -> str:
        """Its error, or as much of what stands there as is fit for a line."""
        return dialect.clean_error(dialect.error_message(self.body) or self.body[:200].decode("utf-8", "replace"), None)


class Inquiry:
    """One API at one URL. `say` takes a line at each step."""

    def __init__(self, spec: TargetSpec, say: Callable[[str], None], max_usd: Decimal | None = None) -> None:
        """Reads the key. `max_usd`: what it may cost at most. Raises ConfigError: url, key."""
        assert spec.url
        self._spec, self._say, self._max_usd = spec, say, max_usd
        self._purse: Purse | None = None
        self._base = identity.base_url(spec.url, vllm=False)
        self._key = read_key(spec)
        self._auth, self._headers = spec.auth, dict(spec.headers)
        self.findings = Findings(self._base, clock.utc_now().date().isoformat(), key_sent=self._key is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What was reserved and not spent goes back."""
        if self._purse is not None:
            self._purse.close()

    # ------------------------------------------------------------ free

    def open(self, model: str | None) -> Opened:
        """Models, round trip and dialects: costs nothing, where an API takes no request without a prompt. Raises ConfigError: what may come
        costs more than it may; StoreError: a ledger that cannot be written; RefusedError for a key that is refused, TargetError where nothing answers, it
        serves no dialect, or no model is named and there is not one alone."""
        found = self.findings
        if self._key and self._base.startswith("http://") and not is_loopback(self._base):
            self._say("the key goes over the network without TLS")
        names = self._list()
        found.model = model or (names[0] if len(names) == 1 else "")
        if not found.model:
            shown = identity.names_shown(tuple(names))
            raise TargetError("which model is to be asked?", f"/models lists {shown}", "give --model NAME")
        if names and found.model not in names:
            self._say(f"{found.model} is not among the {len(names)} that /models lists")
        size = (GENERATIONS, PROMPT_TOKENS, OUTPUT_TOKENS)
        provider = provider_at(found.url)
        self._purse, words = purse_for(provider, found.model, self._base, self._key, self._max_usd, size)
        self._say(words)
        for api in APIS:
            if found.generations < GENERATIONS:
                found.paths[api] = self._has_path(api)
        served = [api for api, status in found.paths.items() if status not in _ABSENT]
        if not served:
            raise TargetError(
                "none of the four dialects is served", self._base, "is this the base URL, usually ending in /v1?"
            )
        return Opened(found.model, tuple(served))

    def _list(self) -> list[str]:
        """Names that /models lists; empty where there is no list. Finds out in which header the key goes."""
        tried: list[str] = []
        for auth in dict.fromkeys((self._auth, *(("x-api-key", "api-key") if self._key else ()))):
            self._auth = auth
            if auth == "x-api-key":
                self._headers.setdefault("anthropic-version", "2023-06-01")
            with self._client(APIS[0]) as http:
                begun_ns = clock.monotonic_ns()
                answer = identity.get(http, f"{self._base}/models")
                self.findings.first_answer_s = (clock.monotonic_ns() - begun_ns) / clock.NS
                if answer.status_code not in (401, 403):
                    self._round_trips(http)
                    break
            tried.append(auth)
        else:
            raise identity.refused(answer.status_code, self._base, self._spec)
        if self._auth == "x-api-key":
            self.findings.headers_needed = {"anthropic-version": self._headers["anthropic-version"]}
        self.findings.auth = self._auth
        if clock_off := identity.check_clock(answer, self._base):
            self._say(f"warning: {clock_off}")
        self.findings.models_status = answer.status_code
        served = identity.served_by(answer, "") if answer.status_code == 200 else None
        names = [] if served is None or isinstance(served, int) else list(served.names)
        self.findings.models = len(names)
        return names

    def _round_trips(self, http: httpx.Client) -> None:
        """Of an answer over a connection that stands: the least of two, and so with what the server needs for its list."""
        times = []
        for _ in range(2):
            begun_ns = clock.monotonic_ns()
            identity.get(http, f"{self._base}/models")
            times.append((clock.monotonic_ns() - begun_ns) / clock.NS)
        self.findings.round_trip_s = min(times)

    def _has_path(self, api: str) -> int:
        """Status of a request that says neither prompt nor messages, so that no model can take it. A 404 that speaks of the model is a 400."""
        limit = _LIMITS[api][0]
        answer = self._post(api, json.dumps({"model": self.findings.model, limit: 1}).encode())
        kind = refusal_of_status(answer.status, answer.said)
        self._spent(answer)
        if answer.status == 200:  # it made something of nothing
            self.findings.generations += 1
        elif kind in (KEY, CREDIT):
            self._raise_if_refused(answer)
        elif answer.status == 404 and "model" in answer.said.lower():
            return 400
        return answer.status

    # ------------------------------------------------------------ what may cost

    def ask(self, opened: Opened) -> Findings:
        """Up to three short replies: as a run would ask for them; with `ignore_eos`, the other field that bounds a reply and without
        `stream_options`; and in a second dialect. Raises RefusedError (key, credit, model) and TargetError (no reply in any dialect)."""
        found = self.findings
        first = None
        left = list(opened.served)
        while left and first is None:
            found.api = left.pop(0)
            first = self._generate(found.api, {}, _LIMITS[found.api][0])
        if first is None:
            raise TargetError("no reply in any dialect", self._base, found.trouble or "look at the server's log")
        found.first = first
        other = _LIMITS[found.api][-1]
        second = self._generate(found.api, {"ignore_eos": True, "stream_options": None}, other)
        if second is not None:
            found.second = second
        for api in left:
            if found.generations >= GENERATIONS:
                break
            if (third := self._generate(api, {}, _LIMITS[api][0])) is not None:
                found.third = third
                break
        return found

    def _generate(self, api: str, fields: dict[str, Any], limit: str) -> Seen | None:
        """One reply; fields that are refused are left out until it is taken, which costs nothing. None: it is not taken at all."""
        more = {name: None for name in self.findings.refused if name in _MAY_GO} | fields
        more = {name: None if name in self.findings.refused else value for name, value in more.items()}
        limit = next((name for name in (limit, *_LIMITS[api]) if name not in self.findings.refused), limit)
        for _ in range(_TRIES):
            if self.findings.generations >= GENERATIONS:
                return None
            endpoint = self._endpoint(api, more, limit)
            body = dialect.encode(endpoint, _REQUEST, Prompt(0, PROMPT, None))
            answer = self._post(api, body)
            if answer.status == 200:
                self.findings.generations += 1
                self._say(f"{api}: a reply, number {self.findings.generations} of at most {GENERATIONS}")
                try:
                    seen = seen_of(api, answer, json.loads(body), limit)
                except TargetError:
                    self._spent(answer)
                    raise
                self._spent(answer, seen)
                return seen
            self._spent(answer)
            self._raise_if_refused(answer)
            sent = [name for name in (limit, *_MAY_GO) if name in json.loads(body)]
            name = _blamed(sent, answer.said)
            self.findings.trouble = f"{api}: HTTP {answer.status}: {answer.said}"
            if answer.status not in (400, 422) or name is None:
                return None
            self.findings.refused[name] = answer.said
            self._say(f"{api}: {name} is refused")
            if name in _MAY_GO:
                more[name] = None
            elif (rest := [one for one in _LIMITS[api] if one not in self.findings.refused]) != []:
                limit = rest[0]
            else:
                return None
        return None

    def _raise_if_refused(self, answer: _Answer) -> None:
        kind = refusal_of_status(answer.status, answer.said)
        if kind == KEY:
            raise identity.refused(answer.status, self._base, self._spec)
        if kind == MODEL and "model" in answer.said.lower():
            raise RefusedError(
                f"the API does not know the model {self.findings.model}", answer.said, "give --model NAME"
            )
        if kind == CREDIT:
            advice = f"look at the balance and the limits of the account of {place_of(self._spec) or 'the key'}"
            raise RefusedError(
                f"the API has no credit for the key (HTTP {answer.status}): no more is sent", answer.said, advice
            )
        if answer.status == 429 or (kind is not None and kind != MODEL):
            after = answer.headers.get("retry-after")
            wait = f"it says retry-after {after}; " if after else ""
            raise RefusedError(
                f"the API takes no request now (HTTP {answer.status})", answer.said, f"{wait}look at limits and balance"
            )

    # ------------------------------------------------------------ wires

    def _endpoint(self, api: str, more: dict[str, Any], limit: str) -> Endpoint:
        return Endpoint(
            self._base, self.findings.model, api, self._key, ca_file=self._spec.ca_file, auth=self._auth,
            headers=self._headers, request=more, output_limit=limit,
        )  # fmt: skip

    def _client(self, api: str) -> httpx.Client:
        return identity.client_of(self._endpoint(api, {}, "max_tokens"))

    def _post(self, api: str, body: bytes) -> _Answer:
        endpoint = self._endpoint(api, {}, "max_tokens")
        url = f"{self._base}{dialect.path(endpoint)}"
        self.findings.requests += 1
        if self._purse is not None:
            self._purse.reserve()
        pieces: list[tuple[int, bytes]] = []
        headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
        try:
            with self._client(api) as http:
                sent_ns = clock.monotonic_ns()
                answer = request(http, "POST", url, total_s=_REPLY_S, pieces=pieces, content=body, headers=headers)
        except httpx.HTTPError as error:
            if self._purse is not None:
                self._purse.spent(None)
            raise identity.unreachable(url, error) from None
        return _Answer(answer.status_code, answer.headers, answer.content, sent_ns, pieces)

    def _spent(self, answer: _Answer, seen: Seen | None = None) -> None:
        """The bill of what was posted last."""
        if self._purse is None:
            return
        told = seen is not None and seen.prompt_tokens is not None and seen.output_tokens is not None
        tokens = (seen.prompt_tokens or 0, seen.output_tokens or 0) if seen is not None and told else None
        self._purse.spent(answer.status, tokens, finished=seen is not None and seen.finish_reason is not None)


_REQUEST = PlannedRequest(0, None, PROMPT_TOKENS, OUTPUT_TOKENS, None, 0)


def _blamed(sent: list[str], said: str) -> str | None:
    """The field that a refusal names, else the first that may be left out; None where nothing is left to leave out."""
    named = [name for name in sent if name in said]
    may_go = [name for name in sent if name in _MAY_GO]
    return next(iter((*named, *may_go, *sent)), None)


def seen_of(api: str, answer: _Answer, body: dict[str, Any], limit: str) -> Seen:
    """What one reply showed."""
    streamed = answer.headers.get("content-type", "").startswith("text/event-stream")
    reply, usage = dialect.reply(api), dict[str, Any]()
    parser = SseParser()
    if not streamed:
        usage = _usage_in(json_of_or_none(answer.body)) or {}
    try:
        for stamp_ns, piece in answer.pieces if streamed else ():
            for event in parser.feed(piece):
                reply.take(event.data, stamp_ns)
                if event.data != b"[DONE]":
                    usage |= _usage_in(json.loads(event.data)) or {}
    except (ValueError, SseError) as error:
        raise TargetError(f"the reply of {api} cannot be read", f"{type(error).__name__}: {error}"[:200], "it is no event stream of the dialect") from None  # fmt: skip
    if reply.error:
        raise TargetError(
            f"the reply of {api} is an error", dialect.clean_error(reply.error, None), "look at the server's log"
        )
    return Seen(
        api=api, limit=limit, fields=tuple(body), streamed=streamed, usage=usage,
        headers={name.lower(): redaction.text(value)[:120] for name, value in answer.headers.items()},
        prompt_tokens=reply.prompt, output_tokens=reply.output, finish_reason=reply.finish_reason,
        chunks=len(reply.chunk_ns), reasoning_chunks=reply.reasoning_chunks,
        ttft_s=(reply.chunk_ns[0] - answer.sent_ns) / clock.NS if reply.chunk_ns else None,
    )  # fmt: skip


def json_of_or_none(body: bytes) -> Any:
    try:
        return json_of(httpx.Response(200, content=body))
    except ValueError:
        return None


def _usage_in(value: Any) -> dict[str, Any] | None:
    """Numbers of `usage` in an event or a reply, wherever a dialect puts it, by their path; None where there are none."""
    if not isinstance(value, dict):
        return None
    places = (value, value.get("response"), value.get("message"))
    usage = next((one["usage"] for one in places if isinstance(one, dict) and isinstance(one.get("usage"), dict)), None)
    return None if usage is None else dict(_leaves(usage, "usage"))


def _leaves(value: dict[str, Any], path: str) -> Iterator[tuple[str, float]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{path}.{name}")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield f"{path}.{name}", inner
