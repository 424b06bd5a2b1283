"""An S3 server over HTTP in a process of its own (moto's), and what it was asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import httpx

from harness.measure.targets.command import free_port
from tests.waiting import until

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAMOTOMOTOMOTO1234", "AWS_SECRET_ACCESS_KEY": "moto/secret/of/these/tests+0123456789"}


@dataclass(frozen=True)
class S3Server:
    """`env`: what a client needs to reach it."""

    url: str
    log: Path

    @property
    def env(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

    @property
    def fs(self) -> Any:
        """Its own administrator's client."""
        return fsspec.filesystem(
            "s3", key=KEYS["AWS_ACCESS_KEY_ID"], secret=KEYS["AWS_SECRET_ACCESS_KEY"], endpoint_url=self.url, use_listings_cache=False
        )  # fmt: skip

    def make(self, bucket: str) -> str:
        """Make a bucket; its URL."""
        self.fs.mkdir(bucket)
        return f"s3://{bucket}"

    def deny(self, bucket: str, *actions: str) -> None:
        """From now on the bucket refuses these; without one, nothing any more."""
        if not actions:
            self.fs.call_s3("delete_bucket_policy", Bucket=bucket)
            return
        deny = {"Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": [f"arn:aws:s3:::{bucket}/*"]}
        policy = {"Version": "2012-10-17", "Statement": [deny]}
        self.fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy))

    def requests(self) -> list[tuple[str, str]]:
        """(method, path) of every request so far."""
        return re.findall(r'"(?:\x1b\[\d+m)*([A-Z]+) (\S+) HTTP', self.log.read_text())

    def asked(self) -> Counter[str]:
        """How many requests so far, by kind: LIST, GET, HEAD, PUT, DELETE .."""
        return Counter("LIST" if m == "GET" and "list-type" in path else m for m, path in self.requests())


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Up until the block ends; nothing of it is left."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="s3-server-") as folder:
        log = Path(folder) / "log"
        with log.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=out, stderr=out, env=os.environ | KEYS
            )

        def answers() -> bool:
            assert server.poll() is None, log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{url}/moto-api/data.json").status_code == 200
            return False

        try:
            until(answers)
            yield S3Server(url, log)
        finally:
            server.terminate()
            server.wait()
