"""A price for N GPUs on a run that used M: the same costs at M/N of the price, beside those of the whole box.

The share is only what a token costs where somebody else's work pays for the other GPUs; the whole box is what is paid otherwise.
Where M is above N, the share is what M GPUs cost at the price of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from harness.price.machine_match import RanOn, same_gpu
from harness.records import CostLine, Hardware

PREFIX = "self_share_"  # of the lines' names, which are else those of the whole box


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


def share_lines(lines: tuple[CostLine, ...]) -> tuple[CostLine, ...]:
    """Those of the own lines that have a share: bounds and the window's sum say nothing that the others do not."""
    return tuple(line for line in lines if not line.name.endswith(("_upper", "_window")))
