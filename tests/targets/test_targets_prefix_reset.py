"""The prefix cache of a standing server, emptied before a cell, and its metrics pages."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.base.errors import TargetError
from harness.measure.targets import adopt
from harness.measure.targets.adopt import _pages
from harness.records import Endpoint

pytestmark = pytest.mark.timing


@pytest.fixture
def server():
    """Answers with (status, body) from `server.answers`, the last one again and again; `server.asked` keeps method and path."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            self.server.asked.append(f"{self.command} {self.path}")
            answers = self.server.answers
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = _answer

        def log_message(self, *args):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.answers = [], [(200, "")]
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answers", "came", "asked"),
    [
        ([(200, '{"success": true}')], "done", 1),
        ([(200, "")], "done, as far as the server says", 1),
        ([(200, '{"success": false}'), (200, '{"success": true}')], "done", 2),
        ([(200, '{"success": false}')], "failed: blocks of the cache are still held", 5),
        ([(404, "")], "failed: HTTP 404: the server has no such path; start it with VLLM_SERVER_DEV_MODE=1", 1),
        ([(500, "")], "failed: HTTP 500", 1),
    ],
    ids=["done", "older", "the second time", "held", "no development mode", "broken"],
)
def test_what_came_of_a_reset_is_told(server, monkeypatch, answers, came, asked):
    """Asked with POST at the server's root, again while blocks are held, and the answer in words."""
    monkeypatch.setattr(adopt, "_RESET_AGAIN_S", 0)
    server.answers = answers
    assert adopt.reset_prefix_cache(Endpoint(f"{server.url}/v1", "m", "chat")) == came
    assert server.asked == ["POST /reset_prefix_cache"] * asked


def test_a_server_that_is_gone_is_no_exception():
    """Nothing listens: words, not an error."""
    assert adopt.reset_prefix_cache(Endpoint("http://127.0.0.1:9/v1", "m", "chat")).startswith("failed: ConnectError")


PAGE = 'vllm:cache_config_info{block_size="16"} 1\nvllm:num_requests_running 0\n'


def test_every_named_page_must_be_one_of_vllms(server):
    """Two pages: the first one's URL and settings; one that is none is refused with its address."""
    server.answers = [(200, PAGE)]
    found = _pages([f"{server.url}/a/metrics", f"{server.url}/b/metrics"])
    assert (found.url, found.cache_config["block_size"]) == (f"{server.url}/a/metrics", "16")
    assert server.asked == ["GET /a/metrics", "GET /b/metrics"]
    server.answers = [(200, PAGE), (404, "")]
    with pytest.raises(TargetError, match="metrics_urls") as refused:
        _pages([f"{server.url}/a/metrics", f"{server.url}/b/metrics"])
    assert refused.value.value == f"{server.url}/b/metrics"
