"""The last line, and who is told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from harness.config.experiment import NotifySpec
from harness.measure.campaign.ending import Summary, line, notify

pytestmark = pytest.mark.timing


def summary(**changes) -> Summary:
    values = {
        "experiment": "night", "campaign_id": "20261124T000000Z", "state": "finished", "cells": 36, "ok": 30, "unknown": 2,
        "invalid": 1, "failed": 3, "left": 2, "dropped_repetitions": (3,), "best_cell": "a_chat_c16_rep1",
        "best_output_tps": 812.34, "best_usd_per_million_tokens": "0.41234", "duration_s": 3725.0, "report": "r/report.html",
        "failures": ("b_chat_c1_rep1: out of memory",), "exit_code": 3,
    }  # fmt: skip
    return Summary(**(values | changes))


def test_the_line_says_it_all_in_one_line():
    """Counts, best throughput and price, duration and report stand in one line."""
    text = line(summary())
    assert text == (
        "campaign 20261124T000000Z finished: 36 cells, 30 ok (2 UNKNOWN), 1 INVALID, 3 failed, 2 not run; repetitions left out "
        "for time: 3; best 812.3 output tok/s, $0.4123/M tokens (a_chat_c16_rep1); 1:02:05; r/report.html"
    )
    bare = line(summary(best_cell=None, best_output_tps=None, best_usd_per_million_tokens=None, report=None, left=0))
    assert "best" not in bare
    assert "\n" not in bare


@pytest.fixture
def hook():
    """A webhook on loopback: what it was sent, and the status it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_webhook_and_command_get_the_summary(hook, tmp_path, monkeypatch):
    """The URL comes from the named variable; the command gets the same JSON on its standard input."""
    monkeypatch.setenv("TEST_HOOK", f"http://127.0.0.1:{hook.server_port}/secret-path")
    said: list[str] = []
    words = ["sh", "-c", f"cat > {tmp_path}/got.json"]
    notify(NotifySpec(webhook_env="TEST_HOOK", command=words), summary(), said.append)
    assert said == []
    assert hook.got[0]["campaign_id"] == "20261124T000000Z"
    assert hook.got[0]["failed"] == 3
    assert json.loads((tmp_path / "got.json").read_text()) == hook.got[0]


def test_notices_that_fail_are_warnings_without_the_url(hook, monkeypatch):
    """HTTP 500, a port where nobody is, a variable that is not set, a command that fails or is not there: one warning each."""
    said: list[str] = []
    hook.status = 500
    monkeypatch.setenv("TEST_HOOK", f"http://127.0.0.1:{hook.server_port}/secret-path")
    notify(NotifySpec(webhook_env="TEST_HOOK"), summary(), said.append)
    monkeypatch.setenv("TEST_HOOK", "http://127.0.0.1:1/secret-path")
    notify(NotifySpec(webhook_env="TEST_HOOK"), summary(), said.append)
    monkeypatch.setenv("TEST_HOOK", "not a url secret-path")
    notify(NotifySpec(webhook_env="TEST_HOOK"), summary(), said.append)
    monkeypatch.delenv("TEST_HOOK")
    notify(NotifySpec(webhook_env="TEST_HOOK"), summary(), said.append)
    notify(NotifySpec(command=["sh", "-c", "echo no disk >&2; exit 4"]), summary(), said.append)
    notify(NotifySpec(command=["/no/such/program"]), summary(), said.append)
    assert len(said) == 6
    assert all(text.startswith("warning: ") for text in said)
    assert "HTTP 500" in said[0]
    assert "TEST_HOOK is not set" in said[3]
    assert "exit status 4 no disk" in said[4]
    assert "secret-path" not in " ".join(said)


def test_mail_goes_through_sendmail(tmp_path, monkeypatch):
    """The message that sendmail gets has the address, a subject with the counts, and the line."""
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/mail\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    notify(NotifySpec(mail="night@example.com"), summary(), pytest.fail)
    text = Path(tmp_path / "mail").read_text()
    assert "To: night@example.com" in text
    assert "30 of 36 cells ok" in text
    assert "out of memory" in text
