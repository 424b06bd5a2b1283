"""The hosted half with real parts: a vLLM server, and the LiteLLM proxy before it as a hosted API over TLS with keys and limits.

`python -m tests.bench.bench_hosted [--kills 20] [--only-kills] [--keep DIR]`. The commands of a person with a key, one after the other, as they print:
probes of both, a dry run, both arms on one page, a cap that is reached, limits driven into and paced, and the ledger after runs that were
killed, beside what the server itself has counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.config.target import TargetSpec
from harness.measure.targets import Target, embedded, open_target
from tests.live.gateway import Gateway, serve
from tests.waiting import until

PRICE = {"provider": "gateway", "model": "tiny", "input_usd_per_million": 1.0, "output_usd_per_million": 4.0}
MACHINE = {"name": "a machine", "usd_per_hour": 1.0, "source": "invented", "as_of": "2026-11-26"}
COUNTERS = {"prompt": "prompt_tokens_total", "output": "generation_tokens_total"}


class Bench:
    """A folder, the two servers, and commands run as a user runs them."""

    def __init__(self, folder: Path, server: Target, gateway: Gateway) -> None:
        self.folder, self.server, self.gateway = folder, server, gateway
        self.env = os.environ | {"HARNESS_LEDGER_DIR": str(folder / "ledger"), "GATEWAY_KEY": gateway.keys["free"]}
        self.env |= {f"{name.upper()}_KEY": key for name, key in gateway.keys.items()}

    def harness(self, *words: str) -> None:
        print(f"\n$ harness {' '.join(words)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "harness", *words], cwd=self.folder, env=self.env, check=False)
        print(f"exit {done.returncode}", flush=True)

    def hosted(self, name: str = "hosted", key: str = "GATEWAY_KEY", **more: Any) -> dict[str, Any]:
        place = {"url": self.gateway.url, "ca_file": str(self.gateway.ca_file), "api_key_env": key}
        return {"name": name, "kind": "hosted", "model": "tiny", "price": PRICE, **place, **more}

    def config(self, name: str, targets: list[dict[str, Any]], **more: Any) -> str:
        data = {"experiment": name, "seed": 5, "targets": targets, "workloads": ["fixed:64x24"], "observe": {"gpu": "off"}, **more}  # fmt: skip
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
        return f"{name}.yaml"

    def counted_usd(self) -> Decimal:
        """What all that the server has ever counted comes to at the price."""
        page = httpx.get(self.server.info.metrics_url or "", trust_env=False).text
        tokens = {k: sum(map(float, re.findall(rf"^vllm:{n}{{[^}}]*}} (\S+)$", page, re.MULTILINE))) for k, n in COUNTERS.items()}  # fmt: skip
        return (Decimal(tokens["prompt"]) + 4 * Decimal(tokens["output"])) / 1_000_000


def both_arms(bench: Bench) -> None:
    own = {"name": "own", "kind": "adopt", "url": bench.server.info.base_url, "model": "tiny", "body": "plain", "hardware": MACHINE}  # fmt: skip
    slo = {"ttft_from_schedule_s": 5.0, "attainment": 0.9}
    loads = [{"concurrency": [4], "duration_s": 20}]
    config = bench.config("arms", [own, bench.hosted()], loads=loads, slo=slo, max_usd=1, repetitions=2)
    bench.harness("run", config, "--dry-run")
    bench.harness("run", config)


def limits(bench: Bench) -> None:
    """Each key's: requests and tokens a minute, requests at once."""
    many = {"loads": [{"concurrency": [4], "requests": 16}], "warmup_requests": 0, "max_usd": 1}
    driven = [bench.hosted(name, f"{name.upper()}_KEY") for name in ("few", "short", "narrow")]
    bench.harness("run", bench.config("driven", driven, **many))
    time.sleep(61)  # what that key has sent counts for a minute
    paced = [bench.hosted("paced", "FEW_KEY", limits={"rpm": 6})]
    bench.harness("run", bench.config("paced", paced, loads=[{"rate": [0.5], "requests": 8}], warmup_requests=0, max_usd=1))  # fmt: skip


def kills(bench: Bench, count: int, cap_usd: float) -> None:
    """Runs under one day's cap, each killed with kill -9 at a random moment of its sending, then settled."""
    rng, before = random.Random(1), bench.counted_usd()
    loads = [{"concurrency": [8], "duration_s": 60}]
    config = bench.config("killed", [bench.hosted(key="FREE_KEY")], loads=loads, max_usd={"run": cap_usd, "day": cap_usd})  # fmt: skip
    bench.env["HARNESS_LEDGER_DIR"] = str(bench.folder / "ledger-of-kills")
    said, killed = bench.folder / "killed.log", 0
    for turn in range(count):
        words = [sys.executable, "-m", "harness", "run", config]
        with said.open("a") as log:
            process = subprocess.Popen(words, cwd=bench.folder, env=bench.env, stdout=log, stderr=log, start_new_session=True)  # fmt: skip
            until(lambda: said.read_text().count("] measuring\n") > turn or process.poll() is not None, "it sends")  # noqa: B023
            time.sleep(rng.uniform(0, 4))
            with contextlib.suppress(ProcessLookupError):  # its cap had ended it
                os.killpg(process.pid, signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    time.sleep(5)  # what was in flight ends at the server, which bills it
    bench.harness("recover", "results")
    bench.harness("spend")
    told = subprocess.run([sys.executable, "-m", "harness", "spend", "--json"], cwd=bench.folder, env=bench.env, capture_output=True, check=True)  # fmt: skip
    ledger = json.loads(told.stdout)
    print(f"{killed} of {count} runs killed; the server counted ${bench.counted_usd() - before:.6f}, cap ${cap_usd:g}; ledger: {json.dumps(ledger)[:1500]}")  # fmt: skip


def commands(bench: Bench) -> None:
    server, gateway = bench.server, bench.gateway
    bench.harness("probe", server.info.base_url or "", "--model", "tiny")
    bench.harness("probe", gateway.url, "--model", "tiny", "--api-key-env", "FREE_KEY", "--ca-file", str(gateway.ca_file))  # fmt: skip
    both_arms(bench)
    small = bench.config("capped", [bench.hosted()], loads=[{"concurrency": [4], "duration_s": 20}], max_usd=0.004)
    bench.harness("run", small)
    limits(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only-kills", action="store_true")
    parser.add_argument("--keep", type=Path, help="leave everything here")
    args = parser.parse_args()
    flags = {"enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 64, **embedded.flags("tiny")}
    spec = TargetSpec(name="tiny", kind="vllm", model="embedded:tiny", flags=flags, env={"VLLM_CPU_KVCACHE_SPACE": "1"}, start_timeout_s=600)  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-hosted-")))
        (folder / "gateway").mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(open_target(spec, folder / "server.log", lambda _: None))
        gateway = stack.enter_context(serve(server.info.base_url or "", "tiny", folder / "gateway"))
        bench = Bench(folder, server, gateway)
        if not args.only_kills:
            commands(bench)
        kills(bench, args.kills, cap_usd=0.1)


if __name__ == "__main__":
    main()
