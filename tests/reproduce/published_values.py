"""A published table of two rows, machines it may run on, and runs of its cells."""

from __future__ import annotations

from harness.config.published import PublishedTable
from harness.measure.reproduce.obstacles import Machine
from harness.records import Load
from tests.report.report_values import run

GIB = 1 << 30


CPU = Machine(vllm=True, gpu_names=(), gpu_memory_bytes=(), memory_bytes=24 * GIB, no_gpu_because="no NVML")
H100X4 = Machine(True, ("NVIDIA H100 80GB HBM3",) * 4, (80 * GIB,) * 4, 512 * GIB)
A10GX4 = Machine(True, ("NVIDIA A10G",) * 4, (24 * GIB,) * 4, 192 * GIB)


def table(**changes) -> dict:
    """A table of two rows: one that any machine runs, one that needs two GPUs."""
    return {
        "table": "two",
        "title": "Two rows",
        "source": {"name": "a page", "url": "https://example.org/t", "date": "2026-01-01"},
        "targets": {
            "small": {"label": "Small", "model": "embedded:tiny"},
            "big": {"label": "Big", "model": "org/big", "gpus": 2, "shape": "llama-3.3-70b", "context_tokens": 4096},
        },
        "rows": [
            row("small-c4", "small"),
            row("big-c4", "big"),
        ],
    } | changes


def row(name: str, target: str, concurrency: int = 4, **changes) -> dict:
    figures = [{"metric": "output_tps", "column": "aggregate", "value": 100, "unit": "tokens/s"}]
    load = {"concurrency": [concurrency], "requests": 20}
    return {"name": name, "target": target, "workload": "fixed:16x8", "load": load, "figures": figures} | changes


def parsed(**changes) -> PublishedTable:
    return PublishedTable.model_validate(table(**changes))


def summary(concurrency: int = 4, repetition: int = 1, **words):
    words = {"target": "small", "workload": "fixed:16x8", "model": "tiny", "tps": 120.0} | words
    return run(Load(concurrency=concurrency), repetition, **words)
