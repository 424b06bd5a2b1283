"""Requests beside the load (models, metrics, tokens of a text): bounded in all, whoever answers.

An HTTP client's time limits count from byte to byte, so that a server that drips holds it for ever; here a whole answer has one.
"""

from __future__ import annotations

import json
import threading
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from harness.base import clock

TOTAL_S = 30.0
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")  # as it came; here it is read
MOST_BYTES = 32 << 20  # a metrics page of a large server has about one million


def request(
    http: httpx.Client,
    method: str,
    url: str,
    *,
    total_s: float | None = None,
    pieces: list[tuple[int, bytes]] | None = None,
    **more: Any,
) -> httpx.Response:
    """One answer, read whole; `pieces` gets each piece of its body with the time it came, ns. `more`: as httpx takes it. Raises httpx.HTTPError, where it is longer than MOST_BYTES or not here
    after `total_s` (default: TOTAL_S) too."""
    limit_s = TOTAL_S if total_s is None else total_s
    answers: SimpleQueue[httpx.Response | BaseException] = SimpleQueue()
    ask = threading.Thread(
        target=_ask, args=(answers, http, method, url, pieces, more), name="control-request", daemon=True
    )
    ask.start()
    try:
        answer = answers.get(timeout=limit_s)
    except Empty:
        raise httpx.ReadTimeout(f"no whole answer within {limit_s:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _ask(
    answers: SimpleQueue[Any],
    http: httpx.Client,
    method: str,
    url: str,
    pieces: list[tuple[int, bytes]] | None,
    more: dict[str, Any],
) -> None:
    try:
        with http.stream(method, url, **more) as answer:
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if pieces is not None:
                    pieces.append((clock.monotonic_ns(), piece))
                if len(body) > MOST_BYTES:
                    raise httpx.RemoteProtocolError(f"the answer is longer than {MOST_BYTES} bytes")
            headers = [(name, value) for name, value in answer.headers.items() if name not in _OF_THE_BODY]
            answers.put(
                httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=answer.request)
            )
    except BaseException as error:
        answers.put(error)


def json_of(answer: httpx.Response) -> Any:
    """The body's JSON value. Raises ValueError, where it is nested too deep too."""
    try:
        return json.loads(answer.content)
    except RecursionError:
        raise ValueError("nested too deep") from None
