"""A hosted API as OpenAI and Anthropic document theirs: all four dialects, by the path; the first path segment names what it does.

`http://127.0.0.1:PORT/<case>/v1`: a case of CASES streams its pieces, `refused` answers 401 in the vendor's shape, `broken` streams one
piece and then an error event, both with the caller's key in them; `each` does what EACH names for a request's number.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.drive.streams import Piece, Usage, events, sse
from tests.fakes.local_http import QuietHandler, serving

KEY = "k3y-of-a-person-91"
USAGE = Usage(uncached=5, cached=40, written_5m=7, written_1h=2)
CASES = {  # name -> pieces
    "text": (Piece("text", 6),),
    "kept": (Piece("summary", 2), Piece("hidden", 30), Piece("text", 6)),
    "calls": (Piece("text", 2), Piece("call", 4), Piece("call", 3)),
}
EACH = (*CASES, "refused", "broken")
_APIS = {"completions": "completions", "chat/completions": "chat", "responses": "responses", "messages": "messages"}
_END = b"0\r\n\r\n"


def _error(api: str) -> dict[str, Any]:
    if api == "messages":
        return {"type": "error", "error": {"type": "authentication_error", "message": f"invalid x-api-key {KEY}"}}
    return {
        "error": {
            "message": f"Incorrect API key provided: {KEY}",
            "type": "invalid_request_error",
            "code": "invalid_api_key",
        }
    }


def _stream(api: str, case: str) -> bytes:
    if case != "broken":
        return b"".join(data for data, _ in events(api, CASES[case], USAGE))
    begun = [data for data, number in events(api, CASES["text"], USAGE) if number is not None][:1]
    error = _error(api)
    if api == "responses":
        error = {"type": "error", "code": error["error"]["code"], "message": error["error"]["message"], "param": None}
    return begun[0] + sse(error, named=api in ("responses", "messages"))


def _handler(seen: list[tuple[str, dict[str, str], dict[str, Any]]]) -> type[QuietHandler]:
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_POST(self):
            body = json.loads(self.body())
            _, case, _, below = self.path.split("/", 3)
            with lock:
                seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            api = _APIS[below]
            if case == "each":
                case = EACH[int(self.headers["x-request-id"].rpartition("m")[2])]
            if case == "refused":
                self.pieces(401, "application/json", json.dumps(_error(api)).encode())
            else:
                self.pieces(200, "text/event-stream", _stream(api, case))

        def pieces(self, status: int, kind: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            end = b"\n\n" if status == 200 else b""
            for piece in filter(None, data.split(b"\n\n")):
                self.wfile.write(b"%x\r\n%b%b\r\n" % (len(piece + end), piece, end))
                self.wfile.flush()
            self.wfile.write(_END)

    return Handler


@dataclass(frozen=True)
class VendorServer:
    """`seen`: (path, headers in lower case, body) of every request."""

    root: str
    seen: list[tuple[str, dict[str, str], dict[str, Any]]]

    def url(self, case: str) -> str:
        return f"{self.root}/{case}/v1"


@contextmanager
def serving_vendors() -> Iterator[VendorServer]:
    """Serve on a free loopback port."""
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
    with serving(_handler(seen)) as root:
        yield VendorServer(root, seen)
