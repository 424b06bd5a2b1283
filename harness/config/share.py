"""A share of a plan: what one of several load generators sends that know nothing of each other (pods of an indexed Job, tasks of a batch system)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from pydantic import AwareDatetime, Field, model_validator

from harness.base.bounds import Spec
from harness.base.errors import ConfigError


class ShareSpec(Spec):
    """The `index`-th (from 0) of `of` shares of the plan; sends begin at `start_at`, so that all shares begin together."""

    index: int = Field(ge=0)
    of: int = Field(ge=1, le=4096)
    start_at: AwareDatetime | None = Field(default=None, description="UTC; None: as soon as this one is ready")

    @model_validator(mode="after")
    def _one_of_them(self) -> ShareSpec:
        if self.index >= self.of:
            raise ValueError(f"index {self.index} of {self.of} shares: indices are 0 to {self.of - 1}")
        return self

    @property
    def words(self) -> str:
        return f"{self.index}/{self.of}"


def parse_share(text: str, start_at: str | None) -> ShareSpec:
    """`3/8`, and `2026-11-27T01:30:00Z` or None. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text.strip())
    if found is None or not int(found[1]) < int(found[2]) <= 4096:
        raise ConfigError("--share: not INDEX/SHARES", text, "indices begin at 0: of 8 shares 0/8 to 7/8")
    return ShareSpec(index=int(found[1]), of=int(found[2]), start_at=None if start_at is None else _instant(start_at))


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ConfigError("--start-at: not an instant with its zone", text, "e.g. 2026-11-27T01:30:00Z")
    return instant.astimezone(UTC)
