"""A run's manifest as it begins: config, plan, and the target as read back, or as asked for where it never came up."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import __version__
from harness.base import clock
from harness.base.errors import HarnessError
from harness.config.experiment import ExperimentSpec
from harness.config.target import TargetSpec
from harness.measure.targets import Target
from harness.records import SCHEMA_VERSION, Cell, Manifest, Plan, RunState, TargetInfo


def target_facts(spec: TargetSpec, target: Target) -> dict[str, Any]:
    """`Manifest.target` of a target that is up."""
    vocabulary = target.vocabulary
    return asdict(target.info) | {
        "api": target.endpoint.api,
        "vllm_extensions": target.endpoint.vllm_extensions,
        "body": target.endpoint.body if target.endpoint.vllm_extensions else None,
        "vocabulary": {
            "source": vocabulary.source,
            "words": len(vocabulary.words),
            "verified": vocabulary.prompt_overhead_tokens is not None and vocabulary.token_ids is not None,
            "prompt_overhead_tokens": vocabulary.prompt_overhead_tokens,
        },
        "hardware": spec.model_dump(mode="json")["hardware"],
    }


def facts_of_none(spec: TargetSpec, error: HarnessError) -> dict[str, Any]:
    """`Manifest.target` of a target that did not come up: what was asked for, and why there is nothing."""
    why = one_line(error)
    info = TargetInfo(
        name=spec.name,
        kind=spec.kind,
        base_url=spec.url or "",
        model=spec.model,
        max_model_len=None,
        server_version=None,
        flags=dict(spec.flags),
        cache_config={},
        pids=(),
        startup=None,
        metrics_url=None,
        checks={"start": f"failed: {why}"},
    )
    return asdict(info) | {"api": spec.api, "body": spec.body, "hardware": spec.model_dump(mode="json")["hardware"]}


def one_line(error: HarnessError) -> str:
    return "; ".join(str(error).splitlines())


def manifest_of(
    spec: ExperimentSpec,
    cell: Cell,
    target: Mapping[str, Any],
    run_dir: Path,
    campaign_id: str,
    drawn: Plan,
    notes: Sequence[str],
) -> Manifest:
    """The manifest of a run that begins now; the writer adds its owner."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        run_id=run_dir.name,
        experiment=spec.experiment,
        campaign_id=campaign_id,
        cell=cell,
        state=RunState.RUNNING,
        created_utc=clock.utc_now().isoformat(timespec="seconds"),
        owner_pid=os.getpid(),
        owner_start_ticks=0,
        harness_version=__version__,
        config=(config := spec.public()),
        config_sha256=_digest(config),
        plan_sha256=drawn.sha256,
        seed=drawn.seed,
        environment={"plan_notes": list(notes)},
        target=target,
        drive={},
        telemetry={},
        row_counts={},
        error=None,
    )


def _digest(config: Mapping[str, Any]) -> str:
    """Of what is written down: a digest over a short secret tells it to whoever tries them all."""
    return hashlib.sha256(json.dumps(config, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def link_log(log_path: Path | None, run_dir: Path) -> None:
    """The server's log is one file a start; each of its runs links it, so that it is there even after a kill."""
    if log_path is not None and log_path.exists():
        try:
            os.link(log_path, run_dir / "server.log")
        except OSError:
            (run_dir / "server.log").symlink_to(log_path.resolve())
