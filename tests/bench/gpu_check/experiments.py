"""The experiments of the steps, made from configs/experiments/quickstart-gpu.yaml, and what `harness run` made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.base.files import data_dir
from harness.config.experiment import parse_experiment
from harness.judge.runs import analyse
from harness.measure.campaign import file
from harness.records import RunSummary
from tests.bench.gpu_check.step import HARNESS, Place, StepError, finish, last_lines

BASE = "quickstart-gpu"
_READABLE = (0, 7)  # exit codes after which there are runs to read; 7: one of them is INVALID
# What stands for the GPU's server in a rehearsal: the same steps on a CPU, in minutes.
_TINY: dict[str, Any] = {
    "model": "embedded:tiny",
    "flags": {"max-model-len": 1024, "max-num-seqs": 64, "enforce-eager": True},
    "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
}
_TINY_WORKLOAD = "fixed:64x16"


def base() -> dict[str, Any]:
    """The experiment that `make bench` runs on a GPU, as plain data."""
    text = (data_dir("configs") / "experiments" / f"{BASE}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def target(
    place: Place, name: str, flags: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The base's server under another name, with more flags and variables; in a rehearsal the tiny one without either."""
    given = base()["targets"][0]
    if place.rehearse:
        return {"name": name, "kind": "vllm", **_TINY}
    more = {"flags": {**given.get("flags", {}), **(flags or {})}, "env": {**given.get("env", {}), **(env or {})}}
    return {**given, **more, "name": name}


def workload(place: Place) -> str:
    return _TINY_WORKLOAD if place.rehearse else str(base()["workloads"][0])


def write(
    place: Place, step: str, targets: Sequence[Mapping[str, Any]], loads: Sequence[Mapping[str, Any]], **more: Any
) -> Path:
    """The experiment file of a step, checked as `harness run` will check it. Raises ConfigError."""
    data = {key: value for key, value in base().items() if key not in ("targets", "loads", "cost", "description")}
    data |= {"experiment": f"gpu-check-{step}", "targets": list(targets), "loads": list(loads), "order": "as-written"}
    data |= {"workloads": [workload(place)], "observe": {"gpu": "auto" if place.no_gpu else "required"}, **more}
    if place.rehearse:
        data["warmup_requests"] = 4
    parse_experiment(data, f"gpu-check {step}")
    path = place.folder(step) / f"{data['experiment']}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def harness_run(path: Path, limit_s: float, *, out: Path | None = None, before: str = "") -> Path:
    """`harness run` of an experiment, gone on with where it was broken off; returns its directory.

    `before`: Python that runs first in its process. Raises StepError where it leaves no runs to read.
    """
    out = out or path.parent / "runs"
    words = [HARNESS[0], HARNESS[1], before + HARNESS[2]]
    resume = ["--resume"] if _is_open(out) else []
    log = path.parent / f"{out.name}.log"
    code = finish([*words, "run", str(path), "--out", str(out), *resume], log, limit_s)
    if code not in _READABLE:
        raise StepError(f"harness run: exit {code}: {last_lines(log)} (see {log})")
    return out


def _is_open(out: Path) -> bool:
    """Whether the newest campaign there was broken off."""
    files = sorted((out / file.FOLDER).glob("*.json"))
    return bool(files) and json.loads(files[-1].read_text(encoding="utf-8")).get("state") == file.OPEN


def rows(out: Path) -> list[dict[str, Any]]:
    """The newest campaign's runs, as plain values."""
    return [_row(summary) for summary in analyse(out).summaries]


def _row(run: RunSummary) -> dict[str, Any]:
    ttft, tpot = run.distributions.get("ttft_s"), run.distributions.get("tpot_s")
    told = ("output_tps", "request_rps", "energy_per_output_token_j", "harness_cpu_share")
    return {
        "target": run.cell.target,
        "concurrency": run.cell.load.concurrency,
        "verdict": run.verdict.state,
        "reasons": [f"{r.severity}: {r.code}: {r.message}" for r in run.verdict.reasons],
        "requests": dict(run.outcomes),
        **{name: run.scalars.get(name) for name in told},
        "ttft_p50_s": ttft.p50 if ttft else None,
        "ttft_p99_s": ttft.p99 if ttft else None,
        "tpot_p50_s": tpot.p50 if tpot else None,
        "startup": dict(run.startup),
        "checks": dict((run.environment.get("server") or {}).get("checks") or {}),
    }


def doubtful(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes runs other than VALID, one line a run."""
    lines = []
    for row in found:
        if row["verdict"] != "VALID":
            why = [r for r in row["reasons"] if not r.startswith("warning")] or row["reasons"]
            lines.append(
                f"{row['target']} c{row['concurrency']} is {row['verdict']}: {why[0] if why else 'no reason'}"[:300]
            )
    return lines
