"""The cap of a run against a paid API: from the command line, the experiment, or a person who agrees to its worst case."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import ConfigError

if TYPE_CHECKING:
    from harness.config.experiment import ExperimentSpec
    from harness.config.spend import MaxUsd
    from harness.measure.campaign.forecast import Forecast

_CENT = Decimal("0.01")


def capped(spec: ExperimentSpec, usd: str | None) -> ExperimentSpec:
    """With `usd` as the cap of the campaign in place of its config's; its other caps stay. Raises ConfigError."""
    if usd is None:
        return spec
    others = spec.max_usd.model_dump(exclude={"run"}) if spec.max_usd else {}
    return spec.model_copy(update={"max_usd": _caps(usd, others)})


def cap_of(usd: str | None) -> Decimal | None:
    """A cap of what is no experiment. Raises ConfigError."""
    return None if usd is None else _caps(usd, {}).run


def _caps(usd: str, others: dict[str, Any]) -> MaxUsd:
    from pydantic import ValidationError

    from harness.base.bounds import config_error
    from harness.config.spend import MaxUsd

    try:
        return MaxUsd.model_validate({**others, "run": usd.removeprefix("$")})
    except ValidationError as error:
        raise config_error("--max-usd", error, MaxUsd) from None


def agreed(spec: ExperimentSpec, foresee: Callable[[], Forecast]) -> ExperimentSpec:
    """`spec` with a cap wherever a target costs money: its own, or the worst case that a person at the terminal agreed to. Raises
    ConfigError: nobody there to ask, no, or a hosted API whose price is not known."""
    from harness.measure.spending import paid

    costly = paid(spec)
    if spec.max_usd or not costly:
        return spec
    names = ", ".join(f"{name} ({price.prices[0].name})" for name, price in costly.items())
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(
            "a paid API, no cap on what it may cost, and nobody to ask",
            names,
            "add --max-usd DOLLARS, or max_usd: to the experiment; --dry-run shows what to expect",
        )
    coming = foresee()
    worst = max((coming.worst_usd or Decimal(0)).quantize(_CENT, ROUND_CEILING), _CENT)
    click.echo(f"{names} will bill about ${coming.hosted_usd or 0:.2f}, at worst ${worst}", err=True)
    for formula in coming.formulas:
        click.echo(f"  {formula}", err=True)
    if not click.confirm(f"Send, with ${worst} as the cap?", err=True):
        raise ConfigError("not agreed to", f"${worst}", "add --max-usd DOLLARS to set another cap")
    return capped(spec, str(worst))
