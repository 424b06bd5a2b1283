"""The LiteLLM proxy of .venv-gateway before a real vLLM server: a hosted API over TLS, with keys that have limits."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from harness.measure.targets.command import free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".venv-gateway" / "bin" / "litellm"
MODEL_RPM = 5  # of the model `limited`
LIMITS = {"free": {}, "few": {"rpm_limit": 6}, "short": {"tpm_limit": 600}, "narrow": {"max_parallel_requests": 1}}
_EC = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"


@dataclass(frozen=True, slots=True)
class Gateway:
    """`url`: its base URL, https. `keys`: name in LIMITS -> key. `log`: the proxy's own words, a line a request."""

    url: str
    ca_file: Path
    keys: dict[str, str]
    log: Path

    def posts(self) -> int:
        """How many requests for tokens have come in, whatever was answered."""
        return len(re.findall(r'"POST /v1/', self.log.read_text(encoding="utf-8", errors="replace")))


def make_ca(folder: Path) -> tuple[Path, Path, Path]:
    """(CA, certificate of localhost signed by it, its key), PEM files in `folder`."""
    ca, ca_key, cert, key = (folder / name for name in ("ca.pem", "ca.key", "cert.pem", "cert.key"))
    root = f"-subj /CN=local-ca -keyout {ca_key} -out {ca} -addext keyUsage=critical,keyCertSign"
    leaf = (
        f"-subj /CN=localhost -keyout {key} -out {cert} -CA {ca} -CAkey {ca_key} -addext subjectAltName=DNS:localhost"
    )
    for words in (root, f"{leaf} -addext basicConstraints=critical,CA:FALSE"):
        subprocess.run(f"{_EC} {words}".split(), check=True, capture_output=True)
    return ca, cert, key


def _config(vllm_url: str, model: str) -> dict:
    params = {"model": f"hosted_vllm/{model}", "api_base": vllm_url, "api_key": "none"}
    return {
        "model_list": [
            {"model_name": model, "litellm_params": params},
            {"model_name": "limited", "litellm_params": params | {"rpm": MODEL_RPM}},
        ],
        "litellm_settings": {"num_retries": 0, "request_timeout": 600},
        "router_settings": {
            "num_retries": 0,
            "enable_pre_call_checks": True,
            "optional_pre_call_checks": ["enforce_model_rate_limits"],
        },
        "general_settings": {
            "master_key": "os.environ/GATEWAY_MASTER",
            "custom_auth": "gateway_keys.user_api_key_auth",
        },
    }


@contextmanager
def serve(vllm_url: str, model: str, folder: Path) -> Iterator[Gateway]:
    """Start the proxy in `folder`, wait until it answers over TLS, end it."""
    ca, cert, key = make_ca(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(vllm_url, model)))
    shutil.copy(Path(__file__).parent / "gateway_keys.py", folder)
    port = free_port()
    keys = {name: f"sk-{name}-{secrets.token_hex(16)}" for name in LIMITS}
    environment = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks a server of its maker for prices
        "GATEWAY_MASTER": f"sk-{secrets.token_hex(16)}",
        "GATEWAY_KEYS": json.dumps({keys[name]: limits for name, limits in LIMITS.items()}),
    }
    words = [LITELLM, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    words += ["--ssl_keyfile_path", key, "--ssl_certfile_path", cert]
    log = folder / "gateway.log"
    with log.open("wb") as out, subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=out) as process:
        try:
            gateway = Gateway(f"https://localhost:{port}/v1", ca, keys, log)
            until(lambda: _answers(gateway, process), f"the proxy answers; {log}", hang_s=300)
            yield gateway
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(gateway: Gateway, process: subprocess.Popen) -> bool:
    assert process.poll() is None, gateway.log.read_text(errors="replace")[-3000:]
    context = ssl.create_default_context(cafile=str(gateway.ca_file))
    try:
        with httpx.Client(verify=context, trust_env=False) as http:
            return http.get(gateway.url.removesuffix("/v1") + "/health/liveliness").status_code == 200
    except httpx.TransportError:
        return False
