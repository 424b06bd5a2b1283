"""A hosted API that is real: the LiteLLM proxy before the real server, over TLS, with keys and limits, by the whole command."""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from harness.store.reader import read_run
from tests import commands
from tests.live.gateway import Gateway
from tests.live.test_run_vllm import BUSY_MACHINE

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]
WRONG = "sk-wrong-0123456789abcdef0123456789abcdef"


def counters(server) -> dict[str, float]:
    """What the vLLM server has counted: its own prompt and output tokens, and requests that ended well."""
    page = httpx.get(server.info.metrics_url, trust_env=False).text
    names = {"prompt": "prompt_tokens_total", "output": "generation_tokens_total", "requests": "request_success_total"}
    return {
        key: sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE))
        for key, name in names.items()
    }


@dataclass
class Ran:
    """A command's end, what the server and the gateway counted meanwhile."""

    code: int
    document: dict
    words: str  # stdout and stderr
    out: Path
    counted: dict[str, float]
    posts: int

    def rows(self, target: str):
        """The request table of a target's only run."""
        (path,) = (path.parent for path in self.out.rglob("manifest.json") if f"{target}_" in path.parent.name)
        return read_run(path).requests


def run(server, gateway: Gateway, folder: Path, experiment: dict, **keys: str) -> Ran:
    """`harness run` of an experiment file; `keys` are its environment variables."""
    before, posts = counters(server), gateway.posts()
    config = folder / "experiment.yaml"
    config.write_text(yaml.safe_dump({"experiment": "gateway", "seed": 5, **experiment}))
    environment = os.environ | keys | {"HARNESS_LEDGER_DIR": str(folder / "ledger")}
    done = commands.harness("run", str(config), "--out", str(folder / "out"), "--json", env=environment)
    after = counters(server)
    document = json.loads(done.stdout) if done.stdout.strip().startswith("{") else {}
    counted = {key: after[key] - before[key] for key in before}
    return Ran(done.returncode, document, done.stdout + done.stderr, folder / "out", counted, gateway.posts() - posts)


def hosted(gateway: Gateway, name: str = "hosted", **more: object) -> dict:
    """A target of the gateway."""
    return {
        "name": name, "kind": "hosted", "url": gateway.url, "model": "tiny", "api_key_env": "GATEWAY_KEY",
        "ca_file": str(gateway.ca_file), **more,
    }  # fmt: skip


def replies_rps(gateway: Gateway) -> float:
    """A pilot: how many replies of 24 tokens a second come through the gateway on this machine, four at a time."""
    trust = ssl.create_default_context(cafile=str(gateway.ca_file))
    headers = {"authorization": f"Bearer {gateway.keys['free']}"}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a pilot"}], "max_tokens": 24}
    with (
        httpx.Client(verify=trust, trust_env=False, timeout=300, headers=headers) as http,
        ThreadPoolExecutor(4) as pool,
    ):
        began_s = time.monotonic()
        for reply in pool.map(lambda _: http.post(f"{gateway.url}/chat/completions", json=body), range(16)):
            reply.raise_for_status()
        return 16 / (time.monotonic() - began_s)


@pytest.fixture(scope="module")
def arms(vllm_server, gateway, tmp_path_factory) -> Ran:
    """One experiment with two arms, a closed loop of four slots each: the server itself, and the same through the gateway, for as long as
    150 replies take by a pilot, 10 s at least."""
    own = {"name": "own", "kind": "adopt", "url": vllm_server.info.base_url, "model": "tiny", "body": "plain"}
    price = {"provider": "gateway", "model": "tiny", "input_usd_per_million": 1.0, "output_usd_per_million": 4.0}
    experiment = {
        "targets": [
            own | {"hardware": {"name": "a machine", "usd_per_hour": 1.0, "source": "a test", "as_of": "2026-11-26"}},
            hosted(gateway, price=price),
        ],
        "workloads": ["fixed:64x24"],
        "loads": [{"concurrency": [4], "duration_s": round(max(10, 150 / replies_rps(gateway)))}],
        "slo": {"ttft_from_schedule_s": 5.0, "attainment": 0.9},
        "max_usd": 100,
    }
    return run(vllm_server, gateway, tmp_path_factory.mktemp("arms"), experiment, GATEWAY_KEY=gateway.keys["free"])


def test_a_run_through_the_gateway_is_valid_or_says_why(arms):
    """A hosted target over TLS with its own CA and a key: every request is ok, and the verdict is VALID, or names the machine's other work."""
    assert "runs" in arms.document, arms.words
    (one,) = (run for run in arms.document["runs"] if "hosted" in run["cell"])
    assert list(one["outcomes"]) == ["ok"]
    found = {reason["code"] for reason in one["reasons"] if reason["severity"] != "warning"}
    assert found <= BUSY_MACHINE | {"window_too_short"}, one["reasons"]
    assert one["verdict"] == "VALID" or found


def test_tokens_through_the_gateway_are_those_that_the_server_counted(arms):
    """The usage that came with each reply of either arm, warm-up included, adds up to the server's own counters, to the token."""
    own, through = arms.rows("own"), arms.rows("hosted")
    assert arms.counted == {
        "prompt": own.prompt_tokens.sum() + through.prompt_tokens.sum(),
        "output": own.output_tokens.sum() + through.output_tokens.sum(),
        "requests": len(own) + len(through),
    }
    assert arms.posts == len(through)


def test_the_gateway_costs_time_to_the_first_token(arms):
    """On the same server, the median TTFT through TLS and the proxy is above that without."""
    ttft_ns = {name: (rows := arms.rows(name)).first_token_ns - rows.sent_ns for name in ("own", "hosted")}
    assert ttft_ns["hosted"].median() > ttft_ns["own"].median()


def test_both_arms_stand_on_one_page(arms):
    """One comparison with a column a side: TTFT, attainment and dollars per good request of each, the hosted one's those of its own bill."""
    (both,) = arms.document["own_and_hosted"]
    cells = {cell["side"]: cell for cell in both["cells"]}
    assert set(cells) == {"own", "hosted"}
    for cell in cells.values():
        assert 0 < cell["ttft_p50_s"]["median"] < cell["e2el_p50_s"]["median"]
        assert cell["usd_per_thousand_good_requests"] is not None or cell["attainment"]["median"] == 0
    rows = arms.rows("hosted")
    each_usd = {(p + 4 * o) / 1e6 for p, o in zip(rows.prompt_tokens, rows.output_tokens, strict=True)}
    assert min(each_usd) * 1000 <= float(cells["hosted"]["usd_per_thousand_requests"]["median"]) <= max(each_usd) * 1000
    assert "both hold it" in both["sentence"] or "neither" in both["sentence"]


def test_no_key_is_in_what_a_run_wrote(arms, gateway):
    """Not in a file of the run's directory, not in what the command printed."""
    key = gateway.keys["free"]
    assert key not in arms.words
    files = [path for path in arms.out.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_a_wrong_key_stops(vllm_server, gateway, tmp_path):
    """401: an error with its exit code, at most one request was sent, none reached the server, and the key is not repeated."""
    experiment = {
        "targets": [hosted(gateway)],
        "workloads": ["fixed:64x24"],
        "loads": [{"concurrency": [4], "requests": 40}],
    }
    ran = run(vllm_server, gateway, tmp_path, experiment, GATEWAY_KEY=WRONG)
    assert ran.code not in (0, 7)
    assert ran.posts <= 1
    assert ran.counted["requests"] == 0
    assert "401" in ran.words
    assert WRONG not in ran.words


@pytest.mark.parametrize(
    ("driver", "names"),
    [("wire", ("few", "short", "narrow", "limited")), ("sdk", ("narrow",))],
    ids=["wire", "sdk"],
)
def test_refusals_by_a_limit_are_rows_and_none_is_sent_again(vllm_server, gateway, tmp_path, driver, names):
    """Requests per minute, tokens per minute and requests at once of a key, requests per minute of a model: each 429 is a row, the
    gateway saw as many requests as there are rows, and the server as many as are ok."""
    targets = [hosted(gateway, name, api_key_env=name.upper()) for name in names]
    for target in targets:
        target["model"] = "limited" if target["name"] == "limited" else "tiny"
    experiment = {
        "targets": targets,
        "workloads": ["fixed:64x24"],
        "loads": [{"concurrency": [4], "requests": 16}],
        "warmup_requests": 0,
        "driver": driver,
    }
    keys = {name.upper(): gateway.keys[name if name in gateway.keys else "free"] for name in names}
    ran = run(vllm_server, gateway, tmp_path, experiment, **keys)
    rows = [ran.rows(name) for name in names]
    statuses = [set(one.http_status) for one in rows]
    assert all(429 in seen and seen <= {200, 429} for seen in statuses), dict(zip(names, statuses, strict=True))
    assert ran.posts == sum(len(one) for one in rows) == 16 * len(names)
    assert ran.counted["requests"] == sum(int((one.outcome == "ok").sum()) for one in rows)
