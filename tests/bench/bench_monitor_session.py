"""A monitor over two real vLLM servers under our own load, one restarted, one killed: `python -m tests.bench.bench_monitor_session
[--minutes 30] [--keep DIR]`.

Each third of the time both servers get a day's shape of Poisson arrivals from `harness run`; after the first third one is restarted at the
same port, in the middle of the last the other is killed. A real Prometheus scrapes the monitor's exporter, with its rules (nothing waits
before it fires). Prints the terminal view, which dashboards' queries brought data, which alerts fired, and the period's report beside the
servers' own counters and the rows that the driver stored.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from harness.config.target import TargetSpec
from harness.measure.observe import vllm_metrics
from harness.measure.targets import Target, open_target
from harness.store.reader import find_runs, read_run
from tests.monitor.prometheus_server import Prometheus, prometheus
from tests.monitor.test_dashboards import PAGES, WINDOWS, filled, panels, quick_rules
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PORTS = (18731, 18732)
WORDS = ("prompt_tokens", "output_tokens", "requests")


def server(number: int, folder: Path) -> Target:
    """One thread on a core of its own, always at the same port."""
    flags = {"enforce-eager": True, "max-model-len": 2048, "max-num-seqs": 16, "load-format": "dummy"}
    cores = sorted(os.sched_getaffinity(0))
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": str(cores[number % len(cores)])}
    spec = TargetSpec(
        name=f"s{number}", kind="vllm", model="embedded:tiny", port=PORTS[number], flags=flags, env=env, start_timeout_s=600
    )  # fmt: skip
    return open_target(spec, folder / f"server{number}-{time.time():.0f}.log", lambda _: None)


def counters(number: int) -> dict[str, float]:
    """What the server itself has counted since its start."""
    with httpx.Client(trust_env=False) as http:
        rows = vllm_metrics.scrape(http, f"http://127.0.0.1:{PORTS[number]}/metrics", "start")
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total")
    return {word: sum(r.value for r in rows if r.metric == name) for word, name in zip(WORDS, names, strict=True)}


def load(number: int, leg: int, seconds: float, rate_rps: float, model: str, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "harness", "run", "--url", f"http://127.0.0.1:{PORTS[number]}/v1", "--model", model]
    words += [
        "--workload",
        "fixed:64x16",
        "--rate",
        str(rate_rps),
        "--duration",
        f"{seconds:g}",
        "--seed",
        str(100 * leg + number),
    ]
    words += [
        "--arrivals",
        f"diurnal:language/m-small:{seconds:g}",
        "--out",
        str(folder / f"run-{leg}-{number}"),
        "--allow-invalid",
    ]
    env = os.environ | {"HARNESS_LOCK_DIR": str(folder / f"lock{number}"), "PYTHONPATH": str(ROOT)}
    log = (folder / f"run-{leg}-{number}.log").open("wb")
    return subprocess.Popen(words, env=env, stdout=log, stderr=log, cwd=folder)


def config(folder: Path, model: str) -> Path:
    dated = {"source": "invented", "as_of": datetime.now(UTC).date().isoformat()}
    machine = {"name": "a box", "usd_per_hour": 2.0, **dated}
    price = {"provider": "x", "model": model, "input_usd_per_million": 0.1, "output_usd_per_million": 0.4, **dated}
    pool = {
        "name": "chat", "engine": "vllm", "servers": [f"http://127.0.0.1:{port}/metrics" for port in PORTS],
        "hardware": machine, "slo": {"ttft_s": 0.25, "tpot_s": 0.1, "attainment": 0.9}, "hosted": [price],
    }  # fmt: skip
    words = {
        "name": "session", "interval_s": 5, "store": str(folder / "store"), "results": str(folder / "none"), "pools": [pool],
        "budget": {"usd_per_million_output_tokens": 1.0, "usd_per_month": 100},
    }  # fmt: skip
    path = folder / "monitor.yaml"
    path.write_text(yaml.safe_dump(words))
    return path


def harness(*words: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "150"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=False, env=env
    )
    return done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr}"


def asked(found: Prometheus) -> tuple[int, list[str]]:
    """How many queries of all dashboards' panels were asked, and those without data."""
    queries = sorted(
        {filled(words.replace("$monitor", "session"), window) for _, _, words in panels() for window in WINDOWS}
    )
    return len(queries), [query for query in queries if not found.query(query)]


def firing(found: Prometheus, seen: set[str], over: threading.Event) -> None:
    while not over.wait(2):
        with contextlib.suppress(AssertionError, OSError):
            seen |= {one["metric"]["alertname"] for one in found.query('ALERTS{alertstate="firing"}')}


def driven(folder: Path) -> dict[str, float]:
    """Tokens of all rows of all runs, warm-up included, as the server's usage told them."""
    sums = dict.fromkeys(WORDS, 0.0)
    for run in map(read_run, find_runs(folder)):
        rows = run.requests[run.requests.outcome == "ok"]
        sums["prompt_tokens"] += float(rows.prompt_tokens.sum())
        sums["output_tokens"] += float(rows.output_tokens.sum())
        sums["requests"] += len(rows)
    return sums


def kill(number: int) -> None:
    """SIGKILL to whoever listens at the port and all below it, as a crash is."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(c.laddr.port == PORTS[number] and c.status == "LISTEN" for c in process.net_connections("tcp")):
                for one in (*process.children(recursive=True), process):
                    one.kill()
                return


def session(folder: Path, seconds: float, rate_rps: float) -> None:
    third = seconds / 3
    began = time.time()
    with contextlib.ExitStack() as stack:
        servers = [server(0, folder), server(1, folder)]
        close = [stack.enter_context(contextlib.ExitStack()) for _ in servers]
        for at, one in enumerate(servers):
            close[at].push(one)
        model = servers[0].endpoint.model
        path = config(folder, model)
        first = [counters(0), counters(1)]
        words = [sys.executable, "-m", "harness", "monitor", str(path), "--listen", "127.0.0.1:18730"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        log = (folder / "monitor.log").open("w")
        monitor = subprocess.Popen(words, stdout=log, stderr=log, env=env)
        stack.callback(monitor.kill)
        rules = quick_rules(folder / "rules")
        found = stack.enter_context(prometheus(folder / "prometheus", {"harness-monitor": "127.0.0.1:18730"}, rules))
        until(lambda: monitor.poll() is not None or found.query("harness_monitor_requests"), "the first figures")
        assert monitor.poll() is None, (folder / "monitor.log").read_text()
        seen: set[str] = set()
        over = threading.Event()
        watch = threading.Thread(target=firing, args=(found, seen, over))
        watch.start()
        truth = dict.fromkeys(WORDS, 0.0)

        def count(number: int, base: dict[str, float]) -> None:
            now = counters(number)
            for word in WORDS:
                truth[word] += now[word] - base[word]

        loads = [load(at, 0, third, rate_rps, model, folder) for at in (0, 1)]
        assert [one.wait() for one in loads] in ([0, 0], [0, 7], [7, 0], [7, 7])
        time.sleep(12)  # the monitor reads it once more
        count(1, first[1])
        close[1].close()
        close[1].push(server(1, folder))
        loads = [load(at, 1, third, rate_rps, model, folder) for at in (0, 1)]
        for one in loads:
            one.wait()
        print(harness("monitor", str(path), "--listen", "none", "--once"))
        total, empty = asked(found)
        print(f"dashboards: {total} queries of {len(PAGES)} pages, {len(empty)} without data: {empty[:6]}", flush=True)
        loads = [load(at, 2, third, rate_rps, model, folder) for at in (0, 1)]
        time.sleep(third / 2)
        count(0, first[0])
        kill(0)
        for one in loads:
            one.wait()
        time.sleep(12)
        count(1, dict.fromkeys(WORDS, 0.0))
        over.set()
        watch.join()
        monitor.send_signal(signal.SIGTERM)
        print(f"monitor ended with {monitor.wait(60)}; alerts seen firing: {', '.join(sorted(seen))}", flush=True)
        close[0].pop_all()  # it is dead
    report(folder, path, began, truth)


def report(folder: Path, path: Path, began: float, truth: dict[str, float]) -> None:
    stamp = datetime.fromtimestamp(began - 60, UTC).strftime("%Y-%m-%dT%H:%M")
    out = harness("monitor", "report", str(path), "--from", stamp, "--out", str(folder / "report"), "--json")
    view = json.loads(out)["view"]
    group = next(g for g in view["groups"] if g["kind"] == "all")
    values: dict[str, Any] = {line["name"]: line["value"] for line in group["lines"]}
    ours = driven(folder)
    for word in WORDS:
        print(
            f"{word}: monitor {values[word]:,.0f}, the servers' own counters {truth[word]:,.0f}, rows of the driver {ours[word]:,.0f}"
        )
    shown: Sequence[str] = (
        "usd",
        "usd_per_million_output_tokens",
        "usd_per_1000_requests",
        "watched_s",
        "gap_s",
        "restarts",
        "lost_restarts",
    )
    print(", ".join(f"{name} {values[name]}" for name in shown))
    print(harness("monitor", "report", str(path), "--from", stamp))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=2.0, help="requests/s a server, mean")
    parser.add_argument("--keep", type=Path, help="leave everything here")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monitor-session-")))
        folder.mkdir(parents=True, exist_ok=True)
        session(folder.resolve(), args.minutes * 60, args.rate)


if __name__ == "__main__":
    main()
