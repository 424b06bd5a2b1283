"""An OpenAI-compatible server that says keys: in error bodies, headers, finish reasons, texts, metrics, its version, its model's root."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from keys import SPELLINGS

from tests.fakes.local_http import QuietHandler, serving


def _chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
    return f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n".encode()


def _events(path: str, first: str, second: str, finish: str | None = None) -> bytes:
    """Two pieces of text and, with `finish`, an end, in the dialect of the path."""
    if path.endswith("/responses"):
        texts = [{"type": "response.output_text.delta", "delta": text} for text in (first, second)]
        details = {
            "status": "incomplete",
            "incomplete_details": {"reason": finish},
            "usage": {"input_tokens": 8, "output_tokens": 4},
        }
        return b"".join(
            f"data: {json.dumps(e)}\n\n".encode()
            for e in [*texts, *([{"type": "response.incomplete", "response": details}] if finish else [])]
        )
    if path.endswith("/messages"):
        texts = [
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}} for text in (first, second)
        ]
        ends = [
            {"type": "message_delta", "delta": {"stop_reason": finish}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
        return b"".join(f"data: {json.dumps(e)}\n\n".encode() for e in [*texts, *(ends if finish else [])])
    return _chunk(first) + (_chunk(second, finish) if finish else b"")


def replies(said: str, path: str = "/v1/completions") -> list[tuple[int, dict[str, str], bytes]]:
    """(status, headers, body) of every way in which a server says a word."""
    events, flat = {"content-type": "text/event-stream"}, " ".join(said.split())
    header = flat.encode("ascii", "replace").decode()
    done = b"data: [DONE]\n\n"
    return [
        (400, {}, json.dumps({"error": {"message": f"bad key {said}", "code": said}}).encode()),
        (500, {"content-type": "text/plain"}, f"boom {said}".encode()),
        (429, {"retry-after": header}, json.dumps({"detail": said}).encode()),
        (200, {"content-type": header}, b"x"),
        (200, events | {"content-encoding": header}, b"x"),
        (200, events, f"data: {json.dumps({'error': {'message': said}})}\n\n".encode()),
        (200, events, _events(path, "a", "b", said) + done),
        (200, events, _events(path, said, said, "length") + done),
        (200, events, f"data: {said}\n\n".encode()),
        (200, {"content-type": "application/json"}, json.dumps({"error": said}).encode()),
        (200, events, _events(path, said, said)),
    ]


@contextmanager
def echoing(keys: Sequence[str]) -> Iterator[str]:
    """Serve on a free loopback port, each request with the next key (its own where there are none), spelling and way; yields the URL of
    /v1."""
    numbers = itertools.count()
    lock = threading.Lock()

    class Handler(QuietHandler):
        def say(self, status, headers, body):
            self.answer(status, body, {**headers, "x-your-key": self.own()})

        def own(self):
            """The key that came, in whatever header."""
            given = next(
                (self.headers[name] for name in ("authorization", "x-api-key", "api-key") if name in self.headers), ""
            )
            return given.removeprefix("Bearer ")

        def do_GET(self):
            own = self.own()
            match self.path:
                case "/v1/models":
                    card = {"id": "m", "max_model_len": 2048, "root": f"/models/{own}"}
                    self.say(200, {}, json.dumps({"data": [card, {"id": own}]}).encode())
                case "/version":
                    self.say(200, {}, json.dumps({"version": f"1 {own}"}).encode())
                case "/metrics":
                    label = own.replace("\\", "\\\\").replace('"', '\\"')
                    self.say(200, {}, f'vllm:num_requests_running{{who="{label}"}} 1.0\n'.encode())
                case _:
                    self.say(404, {}, own.encode())

        def do_POST(self):
            self.body()
            own = self.own()
            with lock:
                number = next(numbers)
            key = own if not keys or (number % 2 and own) else keys[number % len(keys)]
            said = SPELLINGS[number // 11 % len(SPELLINGS)](key)
            self.say(*replies(said, self.path)[number % 11])

    with serving(Handler) as root:
        yield f"{root}/v1"
