"""Whether the machine that a price is for is the one that ran: number of GPUs and model, as far as both are known.

A price for N GPUs on a run that used M is M/N of it (`Share`) where the GPUs are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import Any

from harness.config.target import parallel_sizes
from harness.records import Hardware, RunSummary

_OURS = {"vllm", "offline"}  # kinds whose flags are all known: a size that is not named is 1
_FORMS = {
    "SXM": "SXM",
    "HBM3": "SXM",
    "PCIE": "PCIE",
    "NVL": "NVL",
}  # NVML calls an SXM board by its memory: H100 80GB HBM3
_BRANDS = {"NVIDIA", "TESLA", "GEFORCE"}  # before the model in NVML's names


@dataclass(frozen=True, slots=True)
class RanOn:
    """What a measured server computed on: number of GPUs and how that is known (None: it is not), and NVML's names of the boards."""

    gpus: int | None
    how: str
    boards: tuple[str, ...]


def ran_on(summary: RunSummary) -> RanOn:
    gpus, how = gpus_used(summary) or (None, "not known")
    return RanOn(gpus, how, boards_of(summary))


def gpus_used(summary: RunSummary) -> tuple[int, str] | None:
    """(GPUs that the measured server computed on, how that is known); None where it is not.

    Tensor x pipeline x data parallel by the server's flags, else the boards that NVML watched.
    """
    server: Mapping[str, Any] = summary.environment.get("server") or {}
    sizes = parallel_sizes(server.get("flags") or {})
    if sizes or summary.target_kind in _OURS:
        words = [f"{size.removesuffix('_parallel_size')} {n}" for size, n in sizes.items() if n > 1]
        return prod(sizes.values()), " x ".join(words) + " parallel" if words else "one, by its flags"
    boards = summary.environment.get("gpus") or ()
    return (len(boards), "boards that NVML watched") if boards else None


def boards_of(summary: RunSummary) -> tuple[str, ...]:
    """Names of the boards that NVML watched."""
    return tuple(str(board.get("name") or "") for board in summary.environment.get("gpus") or ())


def _words(model: str) -> list[str]:
    plain = re.sub(r"[^A-Z0-9]+", " ", model.upper())
    words = plain.replace("RTX PRO ", "RTXPRO").replace("RTX ", "RTX").split()
    return [word for word in words if word not in _BRANDS]


def _memory_gb(words: list[str]) -> str | None:
    """The memory in a model's name: `40` of A100-40-SXM and of A100-SXM4-40GB."""
    return next((w.removesuffix("GB") for w in words[1:] if re.fullmatch(r"\d{2,3}(GB)?", w)), None)


def same_gpu(priced: str, board: str) -> bool:
    """Whether a price table's model (`A100-80-PCIe`) may be the board that NVML names (`NVIDIA A100 80GB PCIe`).

    Model, memory and form are held against each other where both names have them.
    """
    wanted, seen = _words(priced), _words(board)
    if not wanted or wanted[0] not in seen:
        return False
    memory = (_memory_gb(wanted), _memory_gb(seen))
    forms = [
        next((f for word, f in _FORMS.items() for w in words if w.startswith(word)), None) for words in (wanted, seen)
    ]
    return all(None in pair or len(set(pair)) == 1 for pair in (memory, tuple(forms)))


def price_mismatch(hardware: Hardware, ran: RanOn, replicas: int = 1) -> str | None:
    """How the priced machine, with `replicas` of the measured server on it, differs from what ran; None where nothing is known to.

    It says what that does to the dollars: no share of a price is made up here.
    """
    differences = []
    used = None if ran.gpus is None else ran.gpus * replicas
    if hardware.gpu_count is not None and used and used != hardware.gpu_count:
        each = f"{replicas} replicas of it use" if replicas > 1 else "the run used"
        differences.append(
            f"the price is for {hardware.gpu_count} GPU{'s' * (hardware.gpu_count != 1)} and {each} {used} ({ran.how}): "
            f"a token here carries {hardware.gpu_count / used:.3g} x the GPUs that made it"
        )
    if hardware.gpu_model is not None:
        others = sorted({name for name in ran.boards if not same_gpu(hardware.gpu_model, name)})
        if others:
            differences.append(f"the price is for {hardware.gpu_model} and the run was on {', '.join(others)}")
    return "; ".join(differences) or None


def unchecked(hardware: Hardware, summary: RunSummary) -> str | None:
    """A warning where a price says which GPU it is for and the run does not say which it used; else None."""
    if not hardware.gpu_count or boards_of(summary):
        return None
    telemetry = (summary.environment.get("telemetry") or {}).get("gpu", "not recorded")
    priced = f"{hardware.gpu_count} x {hardware.gpu_model or 'GPU'}"
    return f"that the run was on the machine priced ({priced}) is not checked: GPU telemetry {telemetry}"


@dataclass(frozen=True, slots=True)
class Share:
    """`used` GPUs of a machine whose price is for `priced`."""

    used: int
    priced: int

    @property
    def words(self) -> str:
        gpus = f"the {self.priced} GPUs" if self.priced > 1 else "the 1 GPU"
        return (
            f"share of {self.used} of {gpus} priced"
            if self.used < self.priced
            else f"{self.used} GPUs at the price of {self.priced}"
        )

    def of(self, usd_per_hour: Decimal) -> Decimal:
        return usd_per_hour * self.used / self.priced


def share_of(hardware: Hardware, ran: RanOn) -> Share | None:
    """None where price and run are of equally many GPUs, one of the numbers is not known, or the GPUs are of another model."""
    if not hardware.gpu_count or not ran.gpus or hardware.gpu_count == ran.gpus:
        return None
    if hardware.gpu_model and not all(same_gpu(hardware.gpu_model, name) for name in ran.boards):
        return None
    return Share(ran.gpus, hardware.gpu_count)
