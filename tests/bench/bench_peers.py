"""`python -m tests.bench.bench_peers`: other load generators and ours, the same loads against the same C golden server.

The server's log is the truth: when each request came in and when each token went out. A table per load says what a
tool reports beside it, what its process tree cost, and how evenly it sent. Tools other than vLLM are installed once,
each in an environment of its own in the user's cache (`--upgrade` looks for newer releases); the runs are offline and
on loopback. Raw output, command lines and the server's logs stay in the folder that is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness.base import clock
from harness.base.files import cache_dir
from harness.measure.drive.golden import server as golden
from harness.measure.targets import embedded
from tests.bench import peers_process
from tests.bench.peers_tools import Case, Peer, Place, Reported, environment, peers

ITL_S = TTFT_S = 0.02
CASES = (
    Case("closed-400", tokens=200, requests=1600, streams=400),
    Case("closed-50", tokens=20, requests=1300, streams=50),
    Case("poisson-100", tokens=200, requests=1000, rate_rps=100.0, arrivals="poisson"),
    Case("constant-500", tokens=8, requests=5000, rate_rps=500.0, arrivals="constant"),
)
NAMES = ("harness", "vllm", "guidellm", "aiperf", "inference-perf")


@dataclass(frozen=True, slots=True)
class Truth:
    """From the server's log, over the requests of the case's length. Times in ms, rates from first receipt to last send."""

    requests: int
    whole: int
    tokens: int
    begin_ns: int
    end_ns: int
    ttft_ms: tuple[float, float]
    itl_ms: tuple[float, float]
    tpot_ms: tuple[float, float]
    output_tps: float
    sent_rps: float
    gap_cv: float


def read_log(path: Path) -> list[tuple[int, np.ndarray]]:
    """(received ns, send times ns) per request, in the layout of golden_server.c; names are not told apart, as most
    tools send none."""
    words, at, requests = np.fromfile(path, np.int64), 8, []
    while at < len(words):
        n = int(words[at + 1])
        requests.append((int(words[at]), words[at + 2 : at + 2 + n]))
        at += 10 + n
    return requests


def _pair(values: np.ndarray) -> tuple[float, float]:
    return tuple(float(v) / 1e6 for v in np.percentile(values, (50, 99)))


def truth(path: Path, tokens: int) -> Truth | None:
    """None where the server sent nothing."""
    requests = [(received, sends) for received, sends in read_log(path) if len(sends)]
    if not requests:
        return None
    received = np.sort([r for r, _ in requests])
    gaps = np.diff(received)
    whole = [sends for _, sends in requests if len(sends) == tokens]
    begin, end = int(received[0]), int(max(sends[-1] for _, sends in requests))
    sent = sum(len(sends) for _, sends in requests)
    lasting = [sends for _, sends in requests if len(sends) > 1]
    return Truth(
        requests=len(requests),
        whole=len(whole),
        tokens=sent,
        begin_ns=begin,
        end_ns=end,
        ttft_ms=_pair(np.array([sends[0] - r for r, sends in requests])),
        itl_ms=_pair(np.concatenate([np.diff(sends) for sends in lasting])),
        tpot_ms=_pair(np.array([(sends[-1] - sends[0]) / (len(sends) - 1) for sends in lasting])),
        output_tps=sent / ((end - begin) / clock.NS),
        sent_rps=len(gaps) / max(1e-9, float(received[-1] - received[0]) / clock.NS),
        gap_cv=float(gaps.std() / gaps.mean()),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tool under one load; `trouble` says why figures are missing."""

    peer: Peer
    load_average: float
    truth: Truth | None = None
    spent: peers_process.Spent | None = None
    reported: Reported | None = None
    trouble: str = ""


def measure(peer: Peer, case: Case, folder: Path, tokenizer: Path, binary: Path, timeout_s: float) -> Outcome:
    """Run one tool against a fresh server; everything it said stays in `folder`."""
    load_average = os.getloadavg()[0]
    if peer.python is None:
        return Outcome(peer, load_average, trouble=peer.note)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch, golden.GoldenProcess(binary, TTFT_S, ITL_S, folder) as server:
        env = environment() | {"TMPDIR": scratch}
        command = peer.command(peer.python, case, Place(server.port, folder, tokenizer))
        (folder / "command.txt").write_text(shlex.join(command) + "\n")
        spent = peers_process.run(command, env, folder, timeout_s, server.pid)
        server.stop()
    seen = truth(folder / "golden.log", case.tokens)
    reported, trouble = None, ""
    try:
        reported = peer.read(folder)
    except Exception as error:  # whatever a tool leaves behind, the others are still measured
        said = [line.strip() for line in (folder / "stderr.txt").read_text().splitlines() if line.strip()]
        trouble = f"no report ({type(error).__name__}: {error}; stderr: {said[-1] if said else 'empty'})"[:240]
    if spent.exit_status is None:
        trouble = f"ended by us after {timeout_s:.0f} s; {trouble}"
    elif spent.exit_status:
        trouble = f"exit status {spent.exit_status}; {trouble}"
    trouble = trouble.removesuffix("; ").replace(f"{folder}/", "").replace("|", "/")
    record = {
        "case": asdict(case), "tool": peer.name, "version": peer.version, "note": peer.note, "load_average": load_average,
        "truth": seen and asdict(seen), "reported": reported and asdict(reported), "trouble": trouble,
        "exit_status": spent.exit_status, "wall_s": spent.wall_s, "cpu_s": spent.cpu_s, "peak_rss_bytes": spent.peak_rss_bytes,
        "most_processes": spent.most_processes,
        "cpu_under_load_s": seen and spent.cpu_between(seen.begin_ns, seen.end_ns),
    }  # fmt: skip
    (folder / "measured.json").write_text(json.dumps(record, indent=1))
    return Outcome(peer, load_average, seen, spent, reported, trouble)


def _ms(pair: tuple[float | None, float | None] | None) -> str:
    if pair is None:
        return "-"
    return " / ".join("-" if v is None else f"{v:.1f}" if v >= 100 else f"{v:.2f}" for v in pair)


def _row(case: Case, o: Outcome) -> str:
    name = f"{o.peer.name} {o.peer.version}"
    t, s, r = o.truth, o.spent, o.reported
    if t is None or s is None:
        return f"| {name} |" + " - |" * 10 + f" {o.trouble or 'it sent nothing'} |"
    tps = "-"
    if r and r.output_tps:
        tps = f"{r.output_tps:,.0f} ({r.output_tps / t.output_tps - 1:+.1%})"
    under = s.cpu_between(t.begin_ns, t.end_ns) / t.tokens * 1e6
    remarks = "; ".join(
        filter(
            None,
            (o.trouble, r.says if r else "", o.peer.note, f"{s.most_processes} process{'es' * (s.most_processes > 1)}"),
        )
    )
    cells = (
        name,
        f"{'-' if r is None or r.ok is None else f'{r.ok:,}'} of {case.requests:,}"
        + (f", {t.whole:,} sent whole" if t.whole != case.requests else ""),
        _ms(r and r.ttft_ms),
        _ms(t.ttft_ms),
        _ms(r and r.itl_ms),
        _ms(r and r.tpot_ms),
        _ms(t.itl_ms),
        tps,
        f"{t.output_tps:,.0f}",
        f"{t.sent_rps:,.1f}, {t.gap_cv:.2f}" if case.rate_rps else "closed",
        f"{under:.1f} / {s.cpu_s / t.tokens * 1e6:.1f}",
        f"{s.peak_rss_bytes / 2**20:,.0f}",
        remarks,
    )
    return "| " + " | ".join(cells) + " |"


def table(case: Case, outcomes: list[Outcome]) -> str:
    load = (
        f"closed loop, {case.streams} streams (at most {case.streams / ITL_S:,.0f} tok/s)"
        if case.streams
        else f"open loop, {case.rate_rps:g} requests/s {case.arrivals} ({case.rate_rps * case.tokens:,.0f} tok/s)"
    )
    loads = [o.load_average for o in outcomes]
    head = (
        "tool", "ok of asked for", "TTFT it reports", "TTFT true", "ITL it reports", "TPOT it reports", "ITL true",
        "tok/s it reports (error)", "tok/s true", "sends/s, gap CV", "CPU us/token: under load / whole command", "peak RSS MiB",
        "remarks",
    )  # fmt: skip
    return "\n".join((
        f"\n**{load}**, {case.requests:,} requests of {case.tokens} tokens; load average before each run {min(loads):.1f} to {max(loads):.1f}\n",
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 2) + "---|",
        *(_row(case, outcome) for outcome in outcomes),
    ))  # fmt: skip


def preface() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return (
        f"{clock.utc_now():%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({cpu}), {platform.system()} {platform.release()}."
        f" Server: TTFT {TTFT_S * 1e3:.0f} ms, then a token every {ITL_S * 1e3:.0f} ms, on one of the same cores, real-time where the system lets it."
        " Times are p50 / p99 in ms. True: from the server's log, receipt of the request to the send of the token. TPOT: (last - first) / (tokens - 1) per"
        " request, which GuideLLM and AIPerf call ITL. tok/s true: from the first receipt to the last send. CPU and resident size (RSS, shared pages counted in each"
        " process) are the whole process tree's; under load: between the server's first receipt and last send; whole command: with start, imports and report."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES), help="tools")
    parser.add_argument("--cases", nargs="*", choices=[c.name for c in CASES], default=[c.name for c in CASES])
    parser.add_argument("--out", type=Path, help="folder for the raw output (default: one in the cache)")
    parser.add_argument("--timeout", type=float, default=150, help="seconds for one run")
    parser.add_argument("--upgrade", action="store_true", help="look for newer releases of the tools")
    a = parser.parse_args()
    folder = (a.out or cache_dir("peers-runs") / clock.utc_stamp()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = embedded.ensure("tiny", lambda text: print(text, file=sys.stderr))
    tools = peers(a.only, a.upgrade)
    for tool in tools:
        if tool.python:
            freeze = subprocess.run([tool.python, "-m", "pip", "freeze"], capture_output=True, text=True, check=False)
            (folder / f"{tool.name.replace(' ', '-').replace(':', '')}-packages.txt").write_text(freeze.stdout)
    peers_process.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    tables = [preface()]
    binary = golden.build(cache_dir("golden"))
    for case in (c for c in CASES if c.name in a.cases):
        outcomes = []
        for tool, short in zip(tools, a.only, strict=True):
            print(f"{case.name}: {tool.name}", file=sys.stderr, flush=True)
            outcomes.append(measure(tool, case, folder / case.name / short, tokenizer, binary, a.timeout))
        tables.append(table(case, outcomes))
    text = "\n".join(tables) + "\n"
    (folder / "table.md").write_text(text)
    print(text)
    print(f"raw output: {folder}")


if __name__ == "__main__":
    main()
