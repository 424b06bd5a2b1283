"""A watch at work in a thread of its own, and pages that servers answer with, or do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.monitor.watch import Watch


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """The watch runs while the block does; it has stored what it read when the block ends. What ends it by itself is raised."""
    started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(watch.until(stop, ready=started.set))
        except BaseException as error:
            trouble.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        yield watch
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    if trouble:
        raise trouble[0]


def vllm_page(tokens: float, started_s: float | None = None, model: str = "m", more: str = "") -> str:
    """A small page of vLLM's names."""
    start = "" if started_s is None else f"process_start_time_seconds {started_s}\n"
    labels = f'engine="0",model_name="{model}"'
    return (
        f"{start}vllm:generation_tokens_total{{{labels}}} {tokens}\nvllm:prompt_tokens_total{{{labels}}} {tokens * 2}\n"
        f"vllm:num_requests_running{{{labels}}} 1.0\n{more}"
    )


class Pages:
    """Answers each path by its function: a text is a page, an int a status; `asked` counts, `heads` has the last request's."""

    def __init__(self, context=None) -> None:
        self.of: dict[str, Callable[[], str | int]] = {}
        self.asked: dict[str, int] = {}
        self.heads: dict[str, dict[str, str]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.asked[path] = outer.asked.get(path, 0) + 1
                outer.heads[path] = {**self.headers, ":path": self.path}
                answer = outer.of.get(path, lambda: 404)()
                status, body = (answer, b"no") if isinstance(answer, int) else (200, answer.encode())
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                with suppress(OSError):  # who asked may have given up
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
