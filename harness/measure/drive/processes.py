"""Worker processes as the parent sees them: started, told, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
from harness.base import redaction
from harness.base.files import NO_ROOM_EXIT_CODE
from harness.measure.drive import dialect, reader
from harness.measure.drive.proxy import of_target, url_of
from harness.measure.drive.request_head import request_head
from harness.measure.job import Job
from harness.measure.request_headers import key_header, more_headers
from harness.records import Endpoint, Timeouts


def environment_of(api_key: str | None) -> dict[str, str]:
    """A worker's: ours without what is a secret by its name, and without what holds a key, for that comes through the pipe."""
    without = redaction.holders()
    kept = {name: value for name, value in os.environ.items() if not redaction.is_secret(name) and name not in without}
    return {name: value for name, value in kept.items() if not (api_key and api_key in value)}


class WorkerProcess:
    """One worker. `ready` and `finished` are set by those who read its spool and its exit."""

    def __init__(self, number: int, config: dict[str, Any], scratch: Path) -> None:
        self.number = number
        self.ready = self.finished = False
        self._stderr = scratch / f"worker-{number}.stderr"
        environment = environment_of(config.get("api_key"))
        root = str(Path(harness.__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH")) if p)
        with self._stderr.open("wb") as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "harness.measure.drive.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent to decide about
            )
        self.tell(json.dumps(config))

    @property
    def pid(self) -> int:
        return self._popen.pid

    def tell(self, line: str) -> None:
        """Send a line; a worker that is gone is noticed by its exit, not here."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def exited(self) -> bool:
        return self._popen.poll() is not None

    def failed(self) -> bool:
        """True once it has ended otherwise than by its own will."""
        return bool(self._popen.poll())

    def epitaph(self) -> str:
        """Why it ended, in one line."""
        code = self._popen.returncode
        if code == NO_ROOM_EXIT_CODE:
            return f"load-generator worker {self.number} died: no room on disk for what it received"
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
        try:
            lines = self._stderr.read_text(errors="replace").split("\n")
        except OSError:
            lines = []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"load-generator worker {self.number} died ({how})" + (f": {last}" if last else "")

    def kill(self) -> None:
        """End it now if it still runs, and reap it."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()


def start_workers(
    job: Job,
    scratch: Path,
    count: int,
    driver: str,
    endpoint: Endpoint,
    timeouts: Timeouts,
    *,
    kernel_stamps: bool,
) -> list[WorkerProcess]:
    """Start `count` workers; the closed loop's concurrency is divided among them exactly. Of several replicas each worker has one."""
    started: list[WorkerProcess] = []
    compiled = reader.library() if driver == "wire" else None
    try:
        for number in range(count):
            if endpoint.replicas:
                endpoint = replace(endpoint, base_url=endpoint.replicas[number % len(endpoint.replicas)])
            head, proxy = request_head(endpoint), of_target(endpoint.base_url, endpoint.proxy_env)
            concurrency = job.load.concurrency
            slots = None if concurrency is None else len(range(number, concurrency, count))
            config = {
                "worker": number,
                "driver": driver,
                "scratch": str(scratch),
                "base_url": endpoint.base_url,
                "api": endpoint.api,
                "spoken": dialect.spoken(endpoint),
                "api_key": endpoint.api_key,
                "headers": key_header(endpoint.auth, endpoint.api_key) | more_headers(endpoint.api, endpoint.headers),
                "ca_file": endpoint.ca_file,
                "head": head.decode("ascii"),
                "slots": slots,
                "timeouts": [timeouts.connect_s, timeouts.first_token_s, timeouts.idle_s, timeouts.total_s],
                "duration_ns": None if job.duration_s is None else int(job.duration_s * 1e9),
                "kernel_stamps": kernel_stamps,
                "reader": compiled,
                "proxy": None if proxy is None else [proxy.host, proxy.port, proxy.authorization],
                "proxy_url": url_of(endpoint.base_url, endpoint.proxy_env)
                if driver == "sdk" and endpoint.proxy_env
                else None,
                "kept": endpoint.connections == "kept",
                "resends": job.gate is None,
            }
            started.append(WorkerProcess(number, config, scratch))
    except BaseException:
        for process in started:
            process.kill()
        raise
    return started
