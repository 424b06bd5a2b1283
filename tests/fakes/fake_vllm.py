"""A stand-in for `vllm serve`: its HTTP routes on http.server, and its ways to go wrong.

As a program it takes vLLM's flags, and FAKE_VLLM_MODE says how it behaves: ok | die | hang | deaf (ignores SIGTERM) |
child (leaves a child that ignores SIGTERM) | escape (that child also leaves the session) | late (dies after 2 requests
for /health). In tests `serve` runs the routes in a thread.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHAT_OVERHEAD = 9
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"


@dataclass
class Fake:
    """What the routes answer. `absent` paths answer 404; `status` overrides the status of a path."""

    models: tuple[str, ...] = ("tiny",)
    max_model_len: int = 2048
    version: str = "0.0.fake"
    key: str | None = None
    absent: tuple[str, ...] = ()
    status: dict[str, int] = field(default_factory=dict)
    models_body: bytes | None = None
    metrics: str = 'vllm:cache_config_info{block_size="16",enable_prefix_caching="True"} 1.0\n'
    chat_overheads: tuple[int, ...] = (CHAT_OVERHEAD,)
    begins: int = 0  # tokens before every text, where special ones are not refused
    merges: bool = False  # a tokenizer that takes two words together once a text is long
    trims: bool = True  # the chat template takes spaces off a message's ends
    splits_first: tuple[str, ...] = ()  # words that are two tokens where a text begins with them, not with a space
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    chats: int = 0


def tokens(text: str) -> list[int]:
    """A word is one token, or two if it is longer than 7 letters; at the start of a text it has another id."""
    found: list[int] = []
    for at, word in enumerate(text.split()):
        number = zlib.crc32(word.encode()) >> 3
        found += [2 * number + (at == 0)] * (1 + (len(word) > 7))
    return found


def handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    """The routes as a handler class over `fake`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one segment: else the peer delays its acknowledgement by 40 ms

        def log_message(self, *args):
            pass

        def answer(self, status: int, body: bytes, kind: str = "application/json"):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def stopped(self) -> bool:
            fake.seen.append((self.path, self.headers.get("authorization")))
            if self.path in fake.absent:
                self.answer(404, b"{}")
            elif self.path in fake.status:
                self.answer(fake.status[self.path], b"{}")
            elif fake.key and self.headers.get("authorization") != f"Bearer {fake.key}":
                self.answer(401, b"{}")
            else:
                return False
            return True

        def do_GET(self):
            if self.stopped():
                return
            cards = [{"id": m, "max_model_len": fake.max_model_len, "root": f"/models/{m}"} for m in fake.models]
            match self.path:
                case "/health":
                    self.answer(200, b"")
                case "/v1/models":
                    self.answer(200, fake.models_body or json.dumps({"data": cards}).encode())
                case "/version":
                    self.answer(200, json.dumps({"version": fake.version}).encode())
                case "/metrics":
                    self.answer(200, fake.metrics.encode(), "text/plain")
                case _:
                    self.answer(404, b"{}")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.stopped():
                return
            match self.path:
                case "/tokenize" if "messages" in body:
                    text = body["messages"][0]["content"]
                    split = text.lstrip().startswith(fake.splits_first) if fake.trims else text.startswith(" ")
                    extra = fake.chat_overheads[min(fake.chats, len(fake.chat_overheads) - 1)]
                    fake.chats += 1
                    self.answer(200, json.dumps({"tokens": [0] * split + tokens(text) + [0] * extra}).encode())
                case "/tokenize":
                    ids = [1] * (fake.begins if body.get("add_special_tokens", True) else 0) + tokens(body["prompt"])
                    ids = [0] * (body["prompt"] in fake.splits_first) + ids
                    self.answer(200, json.dumps({"tokens": ids[:-1] if fake.merges and len(ids) > 9 else ids}).encode())
                case "/v1/completions":
                    chunk = json.dumps({"choices": [{"index": 0, "text": "", "token_ids": [7]}]})
                    self.answer(200, f"data: {chunk}\n\ndata: [DONE]\n\n".encode(), "text/event-stream")
                case _:
                    self.answer(404, b"{}")

    return Handler


@contextmanager
def serve(fake: Fake) -> Iterator[str]:
    """Serve `fake` on a free loopback port; yields the URL of its root."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """The program: vLLM's flags, FAKE_VLLM_MODE's behaviour."""
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("subcommand", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--enable-prompt-tokens-details", action=argparse.BooleanOptionalAction)
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    given = parser.parse_args()
    print("INFO 11-24 11:55:26 [model.py:733] Resolved architecture: FakeForCausalLM", flush=True)
    mode = os.environ.get("FAKE_VLLM_MODE", "ok")
    fake = Fake(tuple(given.served_model_name), int(os.environ.get("FAKE_MAX_MODEL_LEN", given.max_model_len)))
    match mode:
        case "die":
            print("(EngineCore pid=7) ERROR 11-24 11:55:33 [core.py:9] Traceback (most recent call last):", flush=True)
            print(
                "(EngineCore pid=7) ERROR 11-24 11:55:33 [core.py:9] torch.OutOfMemoryError: CUDA out of memory.",
                flush=True,
            )
            raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
        case "hang":
            time.sleep(120)
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "child" | "escape":
            subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=mode == "escape")
    print("INFO 11-24 11:55:42 [default_loader.py:501] Loading weights took 0.25 seconds", flush=True)
    server = ThreadingHTTPServer((given.host, given.port), handler(fake))
    if mode == "late":
        threading.Thread(target=_die_later, args=(fake,), daemon=True).start()
    server.serve_forever()


def _die_later(fake: Fake) -> None:
    while sum(path == "/health" for path, _ in fake.seen) < 2:
        time.sleep(0.02)
    print("ERROR 11-24 11:59:00 [core.py:9] ValueError: the fake engine broke", flush=True)
    os._exit(3)


if __name__ == "__main__":
    main()
