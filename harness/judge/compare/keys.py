"""What must be equal for two campaigns to be compared, and what may differ and is shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from harness.base import redaction
from harness.base.errors import ConfigError, NotComparableError
from harness.judge.boxes import box_of, place_of
from harness.judge.compare.sides import ComparedRun, Side
from harness.records import Manifest

Matched = tuple[str, Sequence[ComparedRun], Sequence[ComparedRun]]

KEYS = ("workload", "model", "plan", "gpu", "cpu", "api", "body", "driver", "schema", "gpu_setup", "gpu_driver", "box")
_ADVICE: Mapping[str, str] = {
    "model": "measure both with the same model",
    "plan": "use the same workload, loads, seed and harness/measure/plan on both sides, so that both replay the same requests",
    "gpu": "measure both on the same kind and number of GPUs",
    "cpu": "a server on the CPU must be measured on the same kind of machine",
    "api": "measure both with the same --api",
    "body": "measure both with the same body of requests (--body)",
    "driver": "measure both with the same --driver",
    "schema": "measure both with a harness of the same stored format",
    "gpu_setup": "measure both under the same power limit, MIG profile and ECC mode (nvidia-smi -q)",
    "gpu_driver": "leave out --strict to make it a warning",
    "box": "no box has repetitions of both sides, so that a change and the box cannot be told apart: measure both on the same boxes",
}


def check_names(ignored: Iterable[str]) -> None:
    """Raises ConfigError for a key that is none."""
    for name in ignored:
        if name not in KEYS:
            raise ConfigError("no such key to ignore", name, f"one of: {', '.join(KEYS)}")


def match_cells(base: Side, new: Side, ignored: Collection[str]) -> tuple[list[Matched], list[str], list[str]]:
    """Cells of both sides, as (name, base's runs, new's runs); names of those only in base and only in new.

    The target's name does not count where one was chosen on each side, nor the workload where it is ignored. Raises
    NotComparableError where no cell is on both sides, naming what differs; ConfigError where the match is ambiguous.
    """
    chosen = base.record.target is not None and new.record.target is not None
    sides = [_keyed(side, with_target=not chosen, with_workload="workload" not in ignored) for side in (base, new)]
    both = [key for key in sides[0] if key in sides[1]]
    if not both:
        _refuse_disjoint(base, new, chosen=chosen, ignored=ignored)
    only = [[" ".join(filter(None, key)) for key in here if key not in other] for here, other in (sides, sides[::-1])]
    return [(" ".join(filter(None, key)), sides[0][key], sides[1][key]) for key in both], only[0], only[1]


def _keyed(side: Side, *, with_target: bool, with_workload: bool) -> dict[tuple[str, str, str], list[ComparedRun]]:
    by_key: dict[tuple[str, str, str], list[ComparedRun]] = {}
    for (target, workload, load), runs in side.cells().items():
        key = (target if with_target else "", workload if with_workload else "", load.name)
        if key in by_key:
            raise ConfigError(
                "cells cannot be matched: several are alike without what is ignored",
                " ".join(filter(None, key)),
                "leave out --ignore workload, or choose one target on each side",
            )
        by_key[key] = runs
    return by_key


def _refuse_disjoint(base: Side, new: Side, *, chosen: bool, ignored: Collection[str]) -> None:
    """Name the first part of a cell that the two sides do not share."""
    parts = {
        "workload": [{workload for _, workload, _ in side.cells()} for side in (base, new)],
        "load": [{load.name for _, _, load in side.cells()} for side in (base, new)],
        "target": [{target for target, _, _ in side.cells()} for side in (base, new)],
    }
    for name, (here, there) in parts.items():
        if here & there or (name == "workload" and name in ignored) or (name == "target" and chosen):
            continue
        advice = (
            "choose them: --base-target NAME --new-target NAME"
            if name == "target"
            else "a comparison needs cells that both campaigns measured"
        )
        raise NotComparableError(f"not comparable: {name} differs", _against(sorted(here), sorted(there)), advice)
    raise NotComparableError(
        "not comparable: no cell is in both",
        _against(base.record.directory, new.record.directory),
        "a comparison needs cells that both campaigns measured",
    )


def check_comparable(matched: Sequence[Matched], ignored: Collection[str], *, strict: bool) -> list[str]:
    """Raises NotComparableError at the first key that differs and is not ignored, naming it, the cell and both values.

    Returns warnings: a GPU driver that differs (refused with `strict`), and what was ignored and does differ.
    """
    warnings: dict[str, None] = {}
    for name, base, new in matched:
        for key, here, there in _values(base, new):
            if here == there:
                continue
            text = f"{name}: base {here or 'none'}, new {there or 'none'}"
            if key in ignored:
                warnings.setdefault(f"{key} differs and was ignored: {text}")
            elif key == "gpu_driver" and not strict:
                warnings.setdefault(f"the GPU driver differs: base {here or 'none'}, new {there or 'none'}")
            else:
                raise NotComparableError(f"not comparable: {key} differs", text, f"{_ADVICE[key]}; or --ignore {key}")
    return list(warnings)


def _values(base: Sequence[ComparedRun], new: Sequence[ComparedRun]) -> Iterable[tuple[str, str, str]]:
    """(key, base's value, new's) of one cell; a side whose runs differ among themselves has all its values."""
    for key, read in (
        ("workload", lambda m: m.cell.workload),
        ("model", lambda m: m.target.get("model")),
        ("gpu", _gpus),
        ("gpu_driver", _gpu_driver),
        ("cpu", _cpu),
        ("api", lambda m: m.target.get("api")),
        ("driver", lambda m: m.config.get("driver")),
        ("schema", lambda m: m.schema_version),
    ):
        yield key, _joined(map(read, _manifests(base))), _joined(map(read, _manifests(new)))
    bodies = [_joined(map(_body, _manifests(runs))) for runs in (base, new)]
    if all(bodies):  # an API without extensions has only one, and that is not a choice
        yield "body", bodies[0], bodies[1]
    yield ("gpu_setup", *_setups(_manifests(base), _manifests(new)))
    yield ("box", *_boxes_apart(base, new))
    plans = [{m.cell.repetition: m.plan_sha256 for m in _manifests(runs)} for runs in (base, new)]
    shared = sorted(plans[0].keys() & plans[1].keys())
    if not shared:
        yield "plan", f"repetitions {sorted(plans[0])}", f"repetitions {sorted(plans[1])}"
    for repetition in shared:
        here, there = (f"repetition {repetition} {side[repetition][:12]}" for side in plans)
        yield "plan", here, there


def boxes_of(base: Sequence[ComparedRun], new: Sequence[ComparedRun]) -> tuple[dict[int, str], dict[int, str]] | None:
    """Repetition -> box of each side of a cell, the newest run counts; None where no run is of a fleet, or all are on one box."""
    if not any(box_of(run.summary.environment) for run in (*base, *new)):
        return None
    here, there = (
        {run.cell.repetition: place_of(run.summary.environment) for run in sorted(runs, key=lambda r: r.created_utc)}
        for runs in (base, new)
    )
    return (here, there) if len({*here.values(), *there.values()}) > 1 else None


def _boxes_apart(base: Sequence[ComparedRun], new: Sequence[ComparedRun]) -> tuple[str, str]:
    """The boxes of each side where they have none in common; else two equal words."""
    here, there = boxes_of(base, new) or ({}, {})
    apart = not set(here.values()) & set(there.values())
    return (_joined(here.values()), _joined(there.values())) if apart else ("", "")


def box_words(matched: Sequence[Matched], ignored: Collection[str]) -> list[str]:
    """What several boxes mean for a comparison, in a line; and which repetitions are no pairs."""
    several = [boxes for _, base, new in matched if (boxes := boxes_of(base, new)) is not None]
    if not several or "box" in ignored:
        return []
    names = _joined(box for boxes in several for side in boxes for box in side.values())
    words = [f"repetitions ran on several boxes ({names}): sides are held against each other within a box"]
    apart = {k: (here[k], there[k]) for here, there in several for k in here if here[k] != there.get(k, here[k])}
    if apart:
        shown = "; ".join(f"{k}: base {here}, new {there}" for k, (here, there) in sorted(apart.items())[:6])
        words.append(f"repetitions whose sides ran on different boxes are no pairs: {shown}")
    return words


def _manifests(runs: Sequence[ComparedRun]) -> list[Manifest]:
    return [run.manifest for run in runs]


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if value not in (None, "")}))


def _against(here: object, there: object) -> str:
    return f"base {here}, new {there}"


def _gpus(manifest: Manifest) -> str:
    names = [str(gpu.get("name")) for gpu in manifest.environment.get("gpus") or []]
    return " + ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))


def _gpu_driver(manifest: Manifest) -> str:
    return _joined(gpu.get("driver_version") for gpu in manifest.environment.get("gpus") or [])


def _body(manifest: Manifest) -> str:
    """exact | plain; runs made before there was a choice are exact. Empty where nothing of vLLM's own can be asked for."""
    target = manifest.target
    return str(target.get("body") or "exact") if target.get("vllm_extensions", True) else ""


# What a board is set to and changes its speed: fact of a board (measure/observe/boards/unit.py) -> how it is called
_SETUP: Mapping[str, str] = {
    "power_limit_mw": "power limit, mW",
    "mig_profiles": "MIG profiles",
    "ecc_enabled": "ECC",
}
# What may differ between machines of one kind, and is shown
_PLACE: Mapping[str, str] = {
    "sm_clock_limit_mhz": "GPU SM clock limit, MHz",
    "pcie_width": "GPU PCIe width",
    "pcie_generation": "GPU PCIe generation",
    "nvlinks_active": "GPU NVLinks",
    "numa_node": "GPU NUMA node",
}


def _setups(base: Sequence[Manifest], new: Sequence[Manifest]) -> tuple[str, str]:
    """What the boards were set to on each side, of the facts that both sides know and that differ."""
    here, there = [], []
    for fact, name in _SETUP.items():
        one, other = (_joined(value for m in side for value in _of_boards(m, fact)) for side in (base, new))
        if one and other and one != other:
            here.append(f"{name}: {one}")
            there.append(f"{name}: {other}")
    return "; ".join(here), "; ".join(there)


def _of_boards(manifest: Manifest, fact: str) -> list[str]:
    """A fact of all boards of a run, those that are known: a list as its words, `whole board` for none."""
    values = [gpu[fact] for gpu in manifest.environment.get("gpus") or [] if gpu.get(fact) is not None]
    return [" + ".join(map(str, v)) or "whole board" if isinstance(v, list) else str(v) for v in values]


def _cpu(manifest: Manifest) -> str:
    """The machine of a server that we started on the CPU: there it is what the GPU is elsewhere."""
    if manifest.environment.get("gpus") or manifest.target.get("kind") != "vllm":
        return ""
    cores = (manifest.environment.get("cores") or {}).get("usable")
    return f"{manifest.environment.get('cpu_model')}, {cores} cores"


def changes(matched: Sequence[Matched]) -> tuple[tuple[str, str, str], ...]:
    """What may differ and does, over all cells: (name, base, new), "none" where a side has no such thing."""
    here = _facts(run.manifest for _, base, _ in matched for run in base)
    there = _facts(run.manifest for _, _, new in matched for run in new)
    names = [*here, *(name for name in there if name not in here)]
    pairs = ((name, here.get(name, "none"), there.get(name, "none")) for name in names)
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def _facts(manifests: Iterable[Manifest]) -> dict[str, str]:
    seen: dict[str, dict[str, None]] = {}
    for m in manifests:
        environment = m.environment
        git = environment.get("git") or {}
        facts: dict[str, Any] = {
            "server version": m.target.get("server_version"),
            "target kind": m.target.get("kind"),
            "harness version": m.harness_version,
            "harness commit": f"{str(git.get('commit'))[:12]}{' with changes' if git.get('dirty') else ''}"
            if git
            else None,
            "GPU driver": _gpu_driver(m),
            **{name: _joined(_of_boards(m, fact)) for fact, name in _PLACE.items()},
            "kernel": environment.get("kernel"),
            "machine": environment.get("host_sha256"),
        }
        facts |= {f"package {name}": version for name, version in (environment.get("packages") or {}).items()}
        facts |= {f"flag {name}": value for name, value in (m.target.get("flags") or {}).items()}
        facts |= {f"variable {name}": value for name, value in (environment.get("variables") or {}).items()}
        own = m.target_config.get("env") or {}
        facts |= {f"target variable {name}": value for name, value in own.items()}
        for name, value in redaction.data(facts).items():
            if value not in (None, ""):
                seen.setdefault(name, {}).setdefault(str(value))
    return {name: ", ".join(sorted(values)) for name, values in seen.items()}
