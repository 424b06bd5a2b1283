"""What an experiment may spend at hosted APIs, in US dollars: of all its runs, of a day, of a key."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_serializer, model_validator

from harness.base.bounds import Spec


def _dollars(usd: Decimal) -> Decimal:
    if not (usd.is_finite() and Decimal("0.000001") <= usd <= 1_000_000_000):
        raise ValueError(f"{usd} is no cap: dollars above 0; leave the key out where nothing is to be bounded")
    return usd


Cap = Annotated[Decimal, AfterValidator(_dollars)]


class MaxUsd(Spec):
    """Every cap that is given holds, whatever else was spent under it: by other processes, runs that were killed, warm-ups. A number
    alone is `run`."""

    run: Cap | None = Field(default=None, description="of the whole campaign, its resumptions too, over all keys")
    day: Cap | None = Field(default=None, description="of each key in a day of UTC, over all campaigns")
    key: Cap | None = Field(default=None, description="of each key, ever, over all campaigns")
    unbilled_statuses: list[Annotated[int, Field(ge=400, le=599)]] = Field(
        default_factory=list,
        max_length=100,
        description="HTTP statuses that the provider does not bill, as you know of it: others count up to their worst case",
    )

    @model_validator(mode="before")
    @classmethod
    def _number_is_run(cls, data: Any) -> Any:
        if isinstance(data, int | float | str | Decimal) and not isinstance(data, bool):
            return {"run": str(data)}
        if isinstance(data, Mapping):  # a float's own digits, not its binary ones
            return {k: str(v) if isinstance(v, float) else v for k, v in data.items()}
        return data

    @model_validator(mode="after")
    def _caps_something(self) -> MaxUsd:
        if not self.caps:
            raise ValueError("give one of run, day and key, in US dollars")
        return self

    @property
    def caps(self) -> dict[str, Decimal]:
        """Those that are given, by name."""
        return {name: usd for name in ("run", "day", "key") if (usd := getattr(self, name)) is not None}

    @field_serializer("run", "day", "key")
    def _as_text(self, usd: Decimal | None) -> str | None:
        return None if usd is None else str(usd)
