"""Two targets at once: the own side, started or reached, and the hosted one; each request goes to one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.measure.targets.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.config.target import TargetSpec


@dataclass(frozen=True, slots=True)
class HybridTarget(Target):
    """Both sides, the own one first. What is asked of a target without saying which is answered by the own one."""

    sides: tuple[Target, ...] = ()

    def died(self) -> str | None:
        """Why the own side's server is gone, where it is ours."""
        return self.sides[0].died()

    def ends_run(self) -> str | None:
        """A side that is down is what the policy is for."""
        return None

    def close(self) -> None:
        for side in self.sides:
            side.close()


def sides_of(target: Target) -> tuple[Target, ...]:
    """The two sides of a hybrid, the own one first; of any other target itself."""
    return target.sides if isinstance(target, HybridTarget) else (target,)


def open_both(
    spec: TargetSpec, sides: tuple[TargetSpec, ...], open_side: Callable[[TargetSpec], Target]
) -> HybridTarget:
    """Open the own side, then the hosted one; where that fails, the first is ended. Raises what `open_side` raises."""
    own = open_side(sides[0])
    try:
        hosted = open_side(sides[1])
    except BaseException:
        own.close()
        raise
    limits = [side.info.max_model_len for side in (own, hosted) if side.info.max_model_len is not None]
    info = replace(
        own.info,
        name=spec.name,
        kind=spec.kind,
        model=own.info.model if own.info.model == hosted.info.model else f"{own.info.model}, {hosted.info.model}",
        max_model_len=min(limits, default=None),
        checks={f"{side.info.name}: {key}": seen for side in (own, hosted) for key, seen in side.info.checks.items()}
        | {
            "sides": f"{own.info.name} ({own.info.kind}, {own.info.base_url}), {hosted.info.name} ({hosted.info.base_url})"
        },
    )
    return HybridTarget(info, own.endpoint, own.vocabulary, own.log_path, own.server, (own, hosted))
