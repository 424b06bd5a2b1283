"""What can be known to be wrong before the first server starts."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from pathlib import Path

from harness.base import clock
from harness.base.errors import ConfigError, StoreError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign.forecast import free_bytes
from harness.measure.campaign.order import Step
from harness.price.hosted import find_price
from harness.price.hosted_api import api_of
from harness.price.prices import instance_price

_GIB = 2**30
_SPARE_FILES = 64  # of a worker beside its connections


def check_prices(spec: ExperimentSpec) -> None:
    """Every price that the config names is there. Raises ConfigError: found after a night of measuring it is too late."""
    now = clock.utc_now()
    for ref in spec.cost.hosted:
        find_price(ref, now)
    for target in spec.targets:
        if isinstance(target.hardware, str):
            instance_price(target.hardware, now)
        if (api := api_of(target, spec.cost.hosted)) is not None and api.ref is not None:
            api.price(api.ref, now)


def check_disk(spec: ExperimentSpec, out: Path, needed_bytes: int) -> None:
    """Room for `needed_bytes` with min_free_gib left after it. Raises StoreError."""
    free = free_bytes(out)
    if free - needed_bytes < spec.min_free_gib * _GIB:
        value = f"{free / _GIB:.2f} GiB free at {out}, {needed_bytes / _GIB:.2f} GiB to be written"
        advice = f"free some space, or lower min_free_gib (now {spec.min_free_gib:g})"
        raise StoreError("not enough disk space", value, advice)


def check_files(spec: ExperimentSpec, steps: Sequence[Step]) -> None:
    """A worker may open a connection for each of its slots, or for a second's requests of an open loop. Raises ConfigError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for step in steps:
        load = step.cell.load
        connections = load.concurrency or math.ceil(load.rate_rps or 1)
        needed = math.ceil(connections / spec.workers) + _SPARE_FILES
        if most != resource.RLIM_INFINITY and needed > most:
            raise ConfigError(
                "too few open files are allowed",
                f"{step.name} needs {needed} in each of {spec.workers} worker(s), this shell allows {most} (ulimit -Hn)",
                "raise the hard limit (ulimit, LimitNOFILE= of a unit, --ulimit of a container), or spread over more workers",
            )


def check_time(spec: ExperimentSpec, first_repetition_s: float) -> None:
    """A repetition fits into max_hours. Raises ConfigError: to drop them all would be to measure nothing."""
    if spec.max_hours is not None and first_repetition_s > spec.max_hours * 3600:
        raise ConfigError(
            "not even one repetition fits into max_hours",
            f"{spec.max_hours:g} h given, about {first_repetition_s / 3600:.2f} h needed for one",
            "raise it, or measure less in a cell; --dry-run shows where the time goes",
        )
