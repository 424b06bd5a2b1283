"""What the JSON files of a run directory must hold: every declared field of its type, and what is read inside the free ones too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict

from harness.base.errors import StoreError
from harness.records import DriveReport, Manifest, RunState, Startup, TargetInfo

_DAMAGED = "the file is damaged, or was not written by this harness; run the cell again"


class _Slo(TypedDict, total=False):
    ttft_from_schedule_s: float | None
    ttft_s: float | None
    ttfvt_s: float | None
    tpot_s: float | None
    e2el_s: float | None
    attainment: float


class _Target(TypedDict, total=False):
    name: str
    model: str
    hardware: dict[str, Any] | str | None
    env: dict[str, Any] | None
    flags: dict[str, Any] | None


class _Config(TypedDict, total=False):
    """Of the resolved experiment, what the offline half reads."""

    targets: list[_Target]
    slo: _Slo | None
    cost: dict[str, Any]
    driver: str
    workers: int


class _Cores(TypedDict, total=False):
    logical: int | None
    usable: int | None


class _Ceiling(TypedDict):
    error_s: float
    tokens_per_s: float | None
    tokens_bounded: bool
    requests_per_s: float | None
    requests_bounded: bool


class _Calibration(TypedDict):
    """All of it is read where there is one."""

    made_utc: str
    workers: int
    ceilings: list[_Ceiling]


class _Git(TypedDict, total=False):
    commit: str | None
    dirty: bool | None


class _Gpu(TypedDict, total=False):
    name: str | None
    uuid: str | None
    driver_version: str | None
    power_limit_mw: int | None
    sm_clock_limit_mhz: int | None
    ecc_enabled: bool | None
    mig_enabled: bool | None
    mig_profiles: list[str | None]
    ecc_uncorrected_errors: int | None


class _Environment(TypedDict, total=False):
    cpu_model: str | None
    kernel: str | None
    host_sha256: str | None
    machine: str | None
    container: str | None
    machine_boards: list[str]
    cores: _Cores | None
    gpus: list[_Gpu]
    packages: dict[str, Any]
    git: _Git | None
    cgroup: dict[str, Any] | None
    variables: dict[str, Any]
    plan_notes: list[str]
    prompt_salt: int
    calibration: _Calibration | None
    cool_down: dict[str, Any] | None


class _JitLine(TypedDict):
    """All of it is read where there is one."""

    kind: str
    seen_ns: int
    logged_at: str | None
    text: str


class _Compiling(TypedDict, total=False):
    rounds: list[list[int]]
    round_lines: list[int]
    lines: list[_JitLine]
    count: int


class _GpuFacts(TypedDict, total=False):
    no_energy: str | None
    others_unknown: str | None
    certain: bool
    xids: list[list[int]]


class _ServerFacts(TypedDict, total=False):
    pages: list[str]


class _Telemetry(TypedDict, total=False):
    gpu: str
    server: str
    host: str
    gpu_facts: _GpuFacts
    server_facts: _ServerFacts


def _any_of(record: type, **others: Any) -> Any:
    """The fields of a record, each of its type where it is there."""
    return TypedDict(f"_{record.__name__}", {**get_type_hints(record), **others}, total=False)  # type: ignore[operator]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _free() -> dict[str, Any]:
    """Free fields of a manifest -> what they hold."""
    report = _any_of(DriveReport)
    return {
        "config": _Config,
        "environment": _Environment,
        "target": _any_of(TargetInfo, startup=_any_of(Startup) | None),
        "drive": TypedDict("_Drive", {"warmup": report, "measure": report, "compiling": _Compiling}, total=False),  # type: ignore[operator]
        "telemetry": _Telemetry,
    }


def refuse_wrong_types(kind: Any, data: Any, source: str) -> None:
    """Raises StoreError naming the first field that is not of its type in `kind`, a record or a typed dictionary."""
    try:
        _adapter(kind).validate_json(to_json(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "(top level)"
        raise StoreError(
            f"{source}: wrong value", f"{where} = {first.get('input')!r:.80}", f"{first['msg']}; {_DAMAGED}"
        ) from None


def refuse_broken(manifest: Mapping[str, Any], source: str) -> None:
    """Raises StoreError unless the values of a manifest are of their types, its state is known and its date is one."""
    refuse_wrong_types(Manifest, manifest, source)
    for name, kind in _free().items():
        refuse_wrong_types(kind, manifest[name], f"{source}: {name}")
    if manifest["state"] not in set(RunState):
        raise StoreError(
            f"{source}: wrong value", f"state = {manifest['state']!r:.80}", f"{', '.join(RunState)}; {_DAMAGED}"
        )
    try:
        datetime.fromisoformat(manifest["created_utc"])
    except ValueError:
        raise StoreError(f"{source}: wrong value", f"created_utc = {manifest['created_utc']!r:.80}", _DAMAGED) from None
