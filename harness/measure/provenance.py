"""A run as it begins: its directory with config, plan, and the target as read back, or as asked for where it never came up."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness import __version__
from harness.base import clock
from harness.base.errors import HarnessError
from harness.config.target import TargetSpec
from harness.measure.cell_plan import Drawn
from harness.measure.run import Run
from harness.measure.targets import Target
from harness.records import SCHEMA_VERSION, Cell, Manifest, RunState, TargetInfo
from harness.store.writer import RunWriter


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


def manifest_of(run: Run, cell: Cell, target: Mapping[str, Any], drawn: Drawn, facts: Mapping[str, Any]) -> Manifest:
    """The manifest of a run that begins now, with `facts` in its environment; the writer adds its owner."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        run_id=run.run_dir.name,
        experiment=run.spec.experiment,
        campaign_id=run.campaign_id,
        cell=cell,
        state=RunState.RUNNING,
        created_utc=clock.utc_now().isoformat(timespec="seconds"),
        owner_pid=os.getpid(),
        owner_start_ticks=0,
        harness_version=__version__,
        config=(config := run.spec.public()),
        config_sha256=_digest(config),
        plan_sha256=drawn.plan.sha256,
        seed=drawn.plan.seed,
        environment={"plan_notes": list(drawn.notes), "prompt_salt": drawn.plan.salt, **facts},
        target=target,
        drive={},
        telemetry={},
        row_counts={},
        error=None,
    )


@contextmanager
def begin_run(
    run: Run, drawn: Drawn, target: Mapping[str, Any], log_path: Path | None, facts: Mapping[str, Any]
) -> Iterator[RunWriter]:
    """The run directory of a cell that begins: its manifest, its plan, its server's log. `target`: as the manifest has it. `facts`: of its
    environment. Raises StoreError; what is raised within is the run's end."""
    cell = replace(run.cell, load=drawn.plan.load)  # a trace, or a preset's arrivals, bring their own rate
    with RunWriter.create(run.run_dir, manifest_of(run, cell, target, drawn, facts)) as writer:
        writer.write_plan(drawn.plan)
        link_log(log_path, run.run_dir)
        yield writer


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
