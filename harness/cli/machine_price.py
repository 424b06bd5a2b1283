"""What the command line says of the measured machine's price, and that an example price stays with its example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from harness.base import clock
from harness.base.errors import ConfigError
from harness.cli.numbers import FloatRange

if TYPE_CHECKING:
    from harness.records import Hardware


def price_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--usd-per-hour` and `--instance`."""
    usd = click.option(
        "--usd-per-hour", type=FloatRange(min=0), help="Price of the measured machine, per paid hour of all of it."
    )
    instance = click.option(
        "--instance",
        metavar="PROVIDER/NAME",
        help="The measured machine, as the price table names it: `harness prices show h100` lists them.",
    )
    return usd(instance(command))


def declared_on_command_line(usd_per_hour: float) -> Hardware:
    from harness.records import Hardware

    return Hardware("declared", str(usd_per_hour), "declared on the command line", clock.utc_now().date().isoformat())


def _one_of(usd_per_hour: float | None, instance: str | None) -> None:
    if usd_per_hour is not None and instance is not None:
        raise ConfigError(
            "two prices of one machine", f"--usd-per-hour {usd_per_hour:g} --instance {instance}", "give one"
        )


def given_price(usd_per_hour: float | None, instance: str | None, created_utc: str) -> Hardware | None:
    """The price that the two options give for a run of that date, None without them. Raises ConfigError."""
    from harness.price.prices import day_of, instance_price

    _one_of(usd_per_hour, instance)
    if instance is not None:
        return instance_price(instance, day_of(created_utc))
    return None if usd_per_hour is None else declared_on_command_line(usd_per_hour)


def set_price(data: dict[str, Any], words: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Put the price that `words` give into every target of an experiment's data; else drop example prices that do not hold.

    Raises ConfigError: both options, or an instance without a price.
    """
    from harness.price.machine_price import is_example, why_no_example
    from harness.price.prices import instance_price

    usd_per_hour, instance = words.get("usd_per_hour"), words.get("instance")
    _one_of(usd_per_hour, instance)
    if instance is not None:
        instance_price(instance, clock.utc_now())
        for target in data["targets"]:
            target["hardware"] = instance
    elif usd_per_hour is not None:
        price = declared_on_command_line(usd_per_hour)
        plain = {"name": price.name, "usd_per_hour": usd_per_hour, "source": price.source, "as_of": price.as_of}
        for target in data["targets"]:
            target["hardware"] = plain
    else:
        for target in data["targets"]:
            if is_example(target["hardware"]) and (why := why_no_example(data["experiment"], target)) is not None:
                target["hardware"] = None
                say(f"note: target {target['name']}: the example price is left out: {why}")
