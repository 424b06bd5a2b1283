"""`harness monitor` on two servers whose counters are known: totals to the token over a restart and a death, its faces, its end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from harness.base.errors import StoreError
from harness.cli import cli
from harness.config.monitor import load_monitor
from harness.monitor.exporter import Exporter
from harness.monitor.live import watched
from harness.store import readings
from harness.store.root import open_root
from tests.fakes.fake_vllm import Fake, serve
from tests.monitor.prometheus_server import prometheus
from tests.monitor.promtool import promtool
from tests.monitor.test_dashboards import CONFIGS, filled, panels
from tests.monitor.vllm_page import CACHED, OUTPUT, PROMPT, dcgm_page, page
from tests.waiting import until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
HARDWARE = {"name": "box", "usd_per_hour": 2.0, "source": "a quote", "as_of": "2026-11-01"}
HOSTED = {"provider": "them", "model": "m", "input_usd_per_million": 1.0, "output_usd_per_million": 4.0, "source": "their page", "as_of": "2026-11-01"}  # fmt: skip
# what only runs in the results and days of watching can tell
NEEDS_MORE = {
    "Utilisation",
    "Idle dollars and what they are for",
    "Advice",
    "Requests a second and capacity",
    "Capacities used",
}


def config(folder: Path, urls: list[str], *, interval_s: int = 1, **pool: object) -> Path:
    """A monitor's config of one pool that reads `urls` every second; a page may take as long."""
    made = {"name": "chat", "servers": urls, "hardware": HARDWARE, "slo": {"ttft_s": 0.5, "attainment": 0.9}, "hosted": [HOSTED], **pool}  # fmt: skip
    spec = {
        "name": "chat", "interval_s": interval_s, "store": str(folder / "store"), "results": str(folder / "results"), "pools": [made],
        "budget": {"usd_per_million_output_tokens": 5.0, "usd_per_month": 3000}, "usd_per_kwh": 0.2,
    }  # fmt: skip
    path = folder / "monitor.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


class Watching:
    """The monitor in a thread, with its newest state and its metrics."""

    def __init__(self, path: Path) -> None:
        self.state, self.exporter, self.over = None, Exporter(), False
        self._thread = threading.Thread(target=watched, args=(load_monitor(path), self._show), daemon=True)

    def _show(self, state) -> bool:
        self.exporter.show(state)
        self.state = state
        return self.over

    def figure(self, name: str, window: str = "1h", kind: str = "all") -> float | None:
        """A figure of the first group of that kind; None before there is one."""
        if self.state is None:
            return None
        groups = [group for group in self.state.views[window].groups if group.kind == kind]
        return groups[0].value(name) if groups else None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        self._thread.join(120)
        assert not self._thread.is_alive()


def test_totals_are_the_servers_own_over_a_restart_and_a_death(tmp_path):
    """To the token: 300 requests of one server, 120 and after its restart 80 of the other, which then dies; its gap is no zero."""
    steady, fragile, now_s = Fake(metrics=page(1000)), Fake(metrics=page(500)), time.time()
    with serve(steady) as a, serve(fragile) as b, Watching(config(tmp_path, [f"{a}/metrics", b])) as monitor:
        until(
            lambda: monitor.state and all(one.scrapes > 1 for one in monitor.state.servers),
            "both servers to be read",
        )
        assert monitor.figure("requests") in (0, None)
        steady.metrics, fragile.metrics = page(1300), page(620)
        until(lambda: monitor.figure("requests") == 420, "what both served")
        fragile.metrics = page(80, started_s=now_s + 1)
        until(lambda: monitor.figure("requests") == 500, "what was served after the restart")
        fragile.status["/metrics"] = 503
        until(lambda: sum(one.up for one in monitor.state.servers) == 1, "the death to be seen")
        assert [one.says != "" for one in monitor.state.servers if not one.up] == [True]
        for window in ("1h", "24h", "month"):
            until(lambda w=window: monitor.figure("requests", w) == 500, window)
            assert monitor.figure("output_tokens", window) == 500 * OUTPUT
            assert monitor.figure("prompt_tokens", window) == 500 * PROMPT
            assert monitor.figure("cached_tokens", window) == 500 * CACHED
            assert monitor.figure("restarts", window) == 1
        usd = monitor.figure("usd", "month")
        assert usd == pytest.approx(4.0 / 3600 * _span_s(monitor.state.views["month"]), rel=1e-9)
        assert monitor.figure("usd_per_million_output_tokens", "month") == pytest.approx(usd / (500 * OUTPUT) * 1e6)
        total = {s.labels["token"]: s.value for f in monitor.exporter.collect() if f.name.endswith("served_tokens") for s in f.samples if s.labels["kind"] == "all"}  # fmt: skip
        assert total == {"prompt": 500 * PROMPT, "cached": 500 * CACHED, "output": 500 * OUTPUT}


def _span_s(view) -> float:
    return (view.to_ns - view.from_ns) / 1e9


def test_a_monitor_that_is_started_again_goes_on(tmp_path):
    """What was served while nobody watched is in the servers' counters, and so in the total of the next start."""
    fake = Fake(metrics=page(100))
    with serve(fake) as url:
        path = config(tmp_path, [url])
        with Watching(path) as first:
            until(lambda: first.state and first.state.servers and first.state.servers[0].scrapes > 1, "the first page")
            fake.metrics = page(150)
            until(lambda: first.figure("requests") == 50, "what was served")
        fake.metrics = page(190)
        with Watching(path) as second:
            until(
                lambda: second.figure("requests", "month") == 90, "what both starts, and the time between them, served"
            )
            fake.metrics = page(200)
            until(lambda: second.figure("requests", "month") == 100, "what is served now")


def test_the_first_screen_of_another_start_has_what_is_stored(tmp_path):
    """Long windows stand for a while once they are made: they are not made before a reading is there."""
    fake, half_an_hour_ns = Fake(metrics=page(100)), 1800 * 10**9
    with serve(fake) as url:
        path, root = config(tmp_path, [url]), open_root(str(tmp_path / "store"))
        with Watching(path) as first:
            until(lambda: first.state and first.state.servers and first.state.servers[0].scrapes > 1, "the first page")
            fake.metrics = page(150)
            until(lambda: first.figure("requests") == 50, "what was served")
        stored = list(readings.read(root, 0, time.time_ns()))
        root.fs.rm(root.path, recursive=True)
        readings.write(root, [replace(row, read_utc_ns=row.read_utc_ns - half_an_hour_ns) for row in stored])
        shown = []
        watched(
            load_monitor(path), lambda state: shown.append(state) or bool(state.servers and state.servers[0].scrapes)
        )
    for window in ("24h", "month"):
        (all_of_it,) = [group for group in shown[-1].views[window].groups if group.kind == "all"]
        assert all_of_it.value("requests") == 50


def test_what_never_was_stored_is_told_at_the_end(tmp_path, monkeypatch):
    """A disk that is full from the first to the last: how many rows are gone, and why; figures are shown all the same."""

    def full(*_):
        raise StoreError("no room", "the disk", "free some")

    monkeypatch.setattr(readings, "write", full)
    shown = []
    with (
        serve(Fake(metrics=page(100))) as url,
        pytest.raises(StoreError, match="readings could not be stored") as error,
    ):
        watched(
            load_monitor(config(tmp_path, [url])),
            lambda state: shown.append(state) or bool(state.servers and state.servers[0].scrapes > 1),
        )
    assert "no room" in str(error.value)
    assert shown[-1].servers[0].up


@pytest.fixture
def command():
    """Starts `harness monitor WORDS` as a process of its own; what still runs at the end is ended."""
    started: list[subprocess.Popen] = []

    def start(*words: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HARNESS_LOCK_DIR": os.environ["HARNESS_LOCK_DIR"]}
        done = subprocess.Popen(
            (sys.executable, "-m", "harness", "monitor", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        started.append(done)
        return done

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_two_servers_into_prometheus_and_a_clean_end(tmp_path, command):
    """The command itself: scraped by a real Prometheus, every panel that can have data has it, SIGTERM ends it with all stored."""
    fakes, boards = (
        [Fake(metrics=page(1000, tenant="acme")), Fake(metrics=page(500, tenant="zoo"))],
        Fake(metrics=dcgm_page(1000)),
    )
    with serve(fakes[0]) as a, serve(fakes[1]) as b, serve(boards) as c:
        path = config(tmp_path, [a, b], telemetry_url=f"{c}/metrics", tenant_label="user")
        process = command(str(path), "--listen", "127.0.0.1:0")
        said = process.stderr.readline()
        assert said.startswith("metrics at http://127.0.0.1:"), said
        place = urllib.parse.urlsplit(said.split()[-1]).netloc
        with prometheus(
            tmp_path / "prometheus", {"harness-monitor": place}, sorted((CONFIGS / "rules").glob("*.yaml"))
        ) as server:
            until(
                lambda: server.value('min(harness_monitor_scrapes_total{monitor="chat"}) > 1'),
                "both servers to be read",
            )
            fakes[0].metrics, fakes[1].metrics, boards.metrics = (
                page(1300, tenant="acme"),
                page(700, tenant="zoo"),
                dcgm_page(4000),
            )
            served = 'harness_monitor_served_tokens_total{kind="all", token="output"}'
            until(lambda: server.value(served) == 500 * OUTPUT, "the counter in Prometheus")
            until(lambda: server.query("harness_monitor_joules_per_output_token"), "the board's energy")
            until(lambda: (server.value(f"count_over_time({served}[1m])") or 0) > 4, "a rate to be one")
            until(
                lambda: not ({t for _, t, asked in panels() if not server.query(filled(asked, "1h"))} - NEEDS_MORE),
                "data in every panel",
            )
            burn = 'max(harness_monitor_budget_burn_low_ratio{window="1h", kind="pool"})'
            burnt = until(lambda: server.value(burn), "the budget's burn")
            assert burnt == pytest.approx(
                0.5, abs=0.01
            )  # 5 % of the requests are slower than half a second, 10 % may be
        with urllib.request.urlopen(f"http://{place}/metrics", timeout=60) as reply:
            assert promtool("check", "metrics", text=reply.read().decode()) == (0, "")
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "2 of 2 servers" in out
    rows = [row for row in readings.read(open_root(str(tmp_path / "store")), 0, time.time_ns()) if row.tenant]
    assert {row.tenant: max(r.requests for r in rows if r.tenant == row.tenant) for row in rows} == {
        "acme": 1300,
        "zoo": 700,
    }


def test_once_shows_one_screen_and_json_all_of_it(tmp_path):
    """Two readings of each server, then the end: for a look, or a script."""
    with serve(Fake(metrics=page(100))) as url:
        path = str(config(tmp_path, [url]))
        screen = CliRunner().invoke(cli, ["monitor", path, "--once"], catch_exceptions=False)
        told = CliRunner().invoke(cli, ["monitor", path, "--once", "--json"], catch_exceptions=False)
    assert screen.exit_code == told.exit_code == 0
    assert "1 of 1 servers read" in screen.output
    assert "$2.00/h now" in screen.output
    state = json.loads(told.stdout)
    assert set(state["views"]) == {"1m", "1h", "24h", "month"}
    assert state["prices"][0]["usd_per_hour"] == "2.0"


def test_check_says_what_is_found_and_what_is_missing(tmp_path):
    """A server, one that is gone, one whose page is HTML, and one of another engine: each with what it says; exit code 3."""
    from harness.base.errors import TargetError

    other = Fake(metrics="# TYPE tgi_request_count counter\ntgi_request_count_total 5\n")
    with (
        serve(Fake(metrics=page(1))) as good,
        serve(Fake(metrics="<html><body>login</body></html>")) as html,
        serve(other) as alien,
    ):
        path = str(config(tmp_path, [good, html, alien, "http://127.0.0.1:9/metrics"], interval_s=60))
        found = CliRunner().invoke(cli, ["monitor", "check", path])
        told = CliRunner().invoke(cli, ["monitor", "check", path, "--json"])
    assert isinstance(found.exception, TargetError)
    assert found.exception.exit_code == 3
    assert "3 of 4 servers cannot be read" in found.exception.what
    assert "$2.00/h, 2026-11-01" in found.output
    assert "models: tiny" in found.output
    assert "every series that is read" in found.output
    servers = {one["server"]: one for one in json.loads(told.stdout)["servers"]}
    says = {server_url: servers[urllib.parse.urlsplit(server_url).netloc]["says"] for server_url in (html, alien)}
    assert "HTML" in says[html] or "html" in says[html]
    assert says[alien]
    assert not (tmp_path / "store").exists()


def test_a_terminal_has_one_screen_that_is_gone_after_ctrl_c(tmp_path):
    """On the other screen of the terminal, painted anew; Ctrl-C is an end like another, and the terminal is as it was."""
    with serve(Fake(metrics=page(100))) as url:
        path = config(tmp_path, [url])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        words = [sys.executable, "-m", "harness", "monitor", str(path), "--listen", "none"]
        child, terminal = pty.fork()
        if child == 0:  # pragma: no cover - another process
            os.execve(sys.executable, words, environment)
        seen, asked = b"", False
        with suppress(OSError):  # Linux' end of a terminal whose program is gone
            while piece := os.read(terminal, 65_536):
                seen += piece
                if not asked and b"1 of 1 servers read" in seen:
                    asked = os.write(terminal, b"\x03") == 1
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(terminal)
    text = seen.decode()
    assert code == 0, text
    assert "$2.00/h now" in text
    assert text.rstrip().endswith("\x1b[?1049l")  # back on the screen where it was typed


def test_states_are_lines_of_json_while_it_goes_on(tmp_path, command):
    """For a script: a document a line, the last as whole as the first, and an end after --for."""
    with serve(Fake(metrics=page(100))) as url:
        out, error = command(str(config(tmp_path, [url])), "--json", "--for", "4s", "--listen", "none").communicate(
            timeout=120
        )
    states = [json.loads(line) for line in out.splitlines()]
    assert states, error
    assert {state["name"] for state in states} == {"chat"}
    assert error == ""


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ({"servers": ["http://me:hunter2@127.0.0.1:9/metrics"]}, "user name or password"),
        ({"servers": ["http://127.0.0.1:9/metrics"], "hardware": "aws/g5.99xlarge"}, "did you mean aws/g5"),
        ({"servers": ["http://127.0.0.1:9/metrics"], "hosted": [{"provider": "openai", "model": "gpt-nothing"}]}, "no price of this model"),
        ({"servers": ["http://127.0.0.1:9/metrics", "http://127.0.0.1:9/metrics"]}, "count twice"),
        ({"servers": ["http://127.0.0.1:9/metrics"], "dns": "here:80"}, "one of servers, dns"),
        ({"servers": ["http://127.0.0.1:9/metrics"], "engine": "llm"}, "engine"),
        ({"servers": ["http://127.0.0.1:9/metrics"], "hardwar": "aws/g5.xlarge"}, "did you mean hardware"),
        ({"servers": ["http://127.0.0.1:9/metrics"], "hardware": {"name": "box", "usd_per_hour": 2, "source": "x"}}, "as_of"),
    ],
)  # fmt: skip
def test_a_config_that_is_wrong_is_told_before_a_page_is_read(tmp_path, pool, says):
    """Three lines, exit code 2, and no secret in them; nothing is stored."""
    from harness.base.errors import ConfigError

    path = config(tmp_path, [], **pool)
    done = CliRunner().invoke(cli, ["monitor", str(path), "--once"])
    assert isinstance(done.exception, ConfigError), done.output
    assert says in str(done.exception)
    assert "hunter2" not in str(done.exception)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("listen", ["9848", "host:port", "127.0.0.1:99999", ":1"])
def test_a_place_to_listen_that_is_none_is_said(tmp_path, listen):
    """Before a server is asked anything."""
    from harness.base.errors import ConfigError

    done = CliRunner().invoke(cli, ["monitor", str(config(tmp_path, ["http://127.0.0.1:9"])), "--listen", listen])
    assert isinstance(done.exception, ConfigError)
    assert listen in str(done.exception)


@pytest.mark.parametrize("words", [["--for", "soon"], ["--for", "0"], ["--for", "-1s"]])
def test_a_time_that_is_none_is_said(tmp_path, words):
    """With what would be one; exit code 2."""
    done = CliRunner().invoke(cli, ["monitor", str(config(tmp_path, ["http://127.0.0.1:9"])), *words])
    assert done.exit_code == 2
