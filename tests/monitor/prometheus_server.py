"""A real Prometheus on loopback that scrapes given pages several times a second, and its HTTP API."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.measure.targets.command import free_port
from tests.monitor.promtool import program
from tests.waiting import until


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **query: str) -> Any:
        """`data` of an answer of the API. Raises AssertionError with Prometheus' own words where it refuses."""
        asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(asked, timeout=60) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Samples of an instant query, now."""
        return self.get("query", query=expression)["result"]

    def value(self, expression: str) -> float | None:
        """The value of a query with one sample, None without any."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None


@contextmanager
def prometheus(folder: Path, jobs: Mapping[str, str], rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Scrape each job's page (its host:port) every 500 ms into `folder`; skips where there is no Prometheus."""
    server = program("prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [page]}]} for job, page in jobs.items()],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    words = (
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen((server, *words, "--log.level=warn"), stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://{address}")
        until(lambda: process.poll() is not None or _ready(found), "Prometheus to be ready")
        assert process.poll() is None, (folder / "log").read_text()
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(server: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False
