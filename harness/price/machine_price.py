"""The price of the machine that ran: what its experiment declares, else an example's where it holds, else one proposed for its GPUs.

An example price never leaves the example: it holds for the target of an experiment that comes with the harness, unchanged, on a
machine without a GPU, and nowhere else.

Where nobody declared one it is looked up in the price table by the boards, which are NVML's; their number is that of the whole
machine, which is what a price table sells. One match is proposed; of several none is chosen; without a match there are no dollars.
What a machine's firmware calls it (`Amazon EC2 p5.48xlarge`) decides where it is an instance's own name. In a container the boards
are those that it was given, so their number proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from harness.base.files import data_dir
from harness.config.experiment import ExperimentSpec, load_experiment, of_run
from harness.config.target import HardwareSpec, own_of
from harness.price.machine_match import same_gpu
from harness.price.prices import DECLARE, Instance, day_of, declared, hardware_of, instance_price, instances
from harness.records import Hardware, RunSummary

_MARK = "(example price)"  # how experiments named such a price before there was a key for it
_SAME = ("kind", "model", "url", "api", "flags", "env")  # what makes a target the example's
_EC2 = "Amazon EC2 "  # before the instance's name in the firmware of Nitro machines
_VENDORS = {"Amazon EC2": "aws", "Google": "gcp"}
_MOST_LISTED = 8


@dataclass(frozen=True, slots=True)
class MachinePrice:
    """`hardware` None: no dollars, and `why` says what was looked for and what to declare."""

    hardware: Hardware | None
    why: str = ""


def machine_price(summary: RunSummary) -> MachinePrice:
    """The price of the run's machine: what its config declares, else what is proposed for the boards it ran on, else why none."""
    price = _declared(summary)
    if price.hardware is not None:
        return price
    proposed = propose(summary, day_of(summary.created_utc))
    return replace(proposed, why="; ".join(filter(None, (price.why, proposed.why))))


def declared_hardware(summary: RunSummary) -> Hardware | None:
    """The price that the run's config declares for its target's machine, None if it declares none, or an example that does not hold.

    It is either written out, or the name of an instance in configs/prices/instances.csv, at its price of the run's date.
    """
    return _declared(summary).hardware


def _declared(summary: RunSummary) -> MachinePrice:
    target = own_of(summary.config, summary.cell.target)
    hardware = target.get("hardware")
    if not hardware:
        return MachinePrice(None)
    if isinstance(hardware, str):
        return MachinePrice(instance_price(hardware, day_of(summary.created_utc)))
    spec = of_run(HardwareSpec, hardware, summary.run_id)
    if not is_example(hardware):
        return MachinePrice(declared(spec))
    boards = [str(name) for name in summary.environment.get("machine_boards") or ()]
    boards += [str(gpu.get("name")) for gpu in summary.environment.get("gpus") or ()]
    if (why := why_no_example(summary.experiment, target, boards)) is not None:
        return MachinePrice(None, f"the example price is left out: {why}")
    return MachinePrice(replace(declared(spec), basis="example"))


# ---------------------------------------------------------------- an example's


def is_example(hardware: object) -> bool:
    """Whether a target's `hardware`, as written down, is an example price."""
    return isinstance(hardware, Mapping) and (
        hardware.get("example") is True or str(hardware.get("name", "")).endswith(_MARK)
    )


@cache
def _examples() -> Mapping[str, ExperimentSpec]:
    return {path.stem: load_experiment(path) for path in (data_dir("configs") / "experiments").glob("*.yaml")}


def why_no_example(experiment: str, target: Mapping[str, Any], boards: Sequence[str] = ()) -> str | None:
    """Why the example price of `target`, as written down, does not hold; None where it does.

    `experiment`: its experiment's name; `boards`: names of the GPUs of the machine it runs on. Raises ConfigError where an
    experiment that comes with the harness is broken.
    """
    if target.get("url"):
        return "it is not the price of a server at a URL"
    if boards:
        return f"this machine has a GPU ({boards[0]}), the example is a machine without one"
    example = _examples().get(experiment)
    if example is None:
        return f"{experiment} is not an experiment that comes with the harness"
    kept = next((one for one in example.targets if one.name == target.get("name")), None)
    if kept is None:
        return f"the {experiment} that comes with the harness has no target {target.get('name')}"
    same = kept.model_dump(mode="json")
    changed = [key for key in _SAME if target.get(key, same[key]) != same[key]]
    return f"{changed[0]} is another than in the {experiment} that comes with the harness" if changed else None


# ---------------------------------------------------------------- a proposed one


def propose(run: RunSummary, at: datetime) -> MachinePrice:
    """The price of the machine that `run` says it was on, of those in force at `at`. Raises ConfigError: no readable price table."""
    facts = run.environment
    watched: Sequence[Mapping[str, Any]] = facts.get("gpus") or ()
    if run.target_kind == "hosted":
        return MachinePrice(None, "the machine behind a hosted API is not ours to price")
    if run.target_kind == "adopt" and not _on_boards_here(facts):
        return MachinePrice(
            None, f"the machine behind the URL is not seen from here, so no price is proposed; {DECLARE}"
        )
    names = [str(name) for name in facts.get("machine_boards") or ()]
    if not watched or not names:
        return MachinePrice(None, f"no price of the machine is declared; {DECLARE}")
    return by_boards(names, facts, at, mig=any(board.get("mig_enabled") for board in watched))


def _on_boards_here(facts: Mapping[str, Any]) -> bool:
    """Whether the boards that were watched are surely the target's, and this machine's: read by NVML, not from an exporter's page."""
    seen: Mapping[str, Any] = (facts.get("telemetry") or {}).get("gpu_facts") or {}
    return seen.get("source") == "NVML" and seen.get("certain") is True


def by_boards(names: Sequence[str], facts: Mapping[str, Any], at: datetime, *, mig: bool = False) -> MachinePrice:
    """The same of a machine with these boards. `facts`: what its firmware calls it (`machine`) and the kind of `container` around us.

    Raises ConfigError: no readable price table.
    """
    if mig:
        what = f"on a MIG slice of {names[0]}: the price table sells whole GPUs, so no price is proposed"
        return MachinePrice(None, f"{what}; {DECLARE}, for the slice")
    table = instances(at)
    boards = f"{len(names)} x {names[0]}" if len(set(names)) == 1 else ", ".join(names)
    fitting = [row for row in table if row.usd_per_hour is not None and all(same_gpu(row.gpu_model, n) for n in names)]
    same = [row for row in fitting if row.gpu_count == len(names)]
    firmware = str(facts.get("machine") or "")
    provider = next((name for vendor, name in _VENDORS.items() if firmware.startswith(vendor)), None)
    mine = [row for row in fitting if provider and row.provider == provider]
    if firmware.startswith(_EC2) and len(name := firmware.removeprefix(_EC2).split()) == 1:
        own = [row for row in mine if row.name == name[0]]
        if own:
            return _proposed(own[0], f"this machine's firmware calls it {name[0]}")
        return MachinePrice(None, f"the price table has no {firmware} with {boards}; {_listed(same)}{DECLARE}")
    if facts.get("container"):
        what = f"of {boards} in a container, which may not be all that the machine has, no price is proposed"
        return MachinePrice(None, f"{what}; {_listed(same)}{DECLARE}")
    same = [row for row in same if provider in (None, row.provider)]
    if len(same) == 1:
        where = f" of {provider}" if provider else ""
        return _proposed(same[0], f"the only machine{where} in the price table with {boards}")
    matches = f"{len(same)} machines of the price table have" if same else "no machine of the price table has"
    return MachinePrice(None, f"{matches} {boards}, so no price is proposed; {_listed(same)}{DECLARE}")


def _proposed(row: Instance, why: str) -> MachinePrice:
    return MachinePrice(replace(hardware_of(row), basis="proposed", why=why))


def _listed(rows: Sequence[Instance]) -> str:
    """The machines that it may be, cheapest first, as the middle of a sentence."""
    if not rows:
        return ""
    cheapest = sorted(rows, key=lambda row: (row.usd_per_hour or 0, row.full_name))
    shown = [f"{row.full_name} ${row.usd_per_hour}/h ({row.as_of})" for row in cheapest[:_MOST_LISTED]]
    more = f" and {len(rows) - _MOST_LISTED} more" if len(rows) > _MOST_LISTED else ""
    return f"it may be {', '.join(shown)}{more}; "
