"""What an account may send to an API, as its provider says it, and whether a run keeps to it or is driven into it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.base import bounds
from harness.base.bounds import Spec, within

_PER_MINUTE = within(1, 1e9, "at least one a minute")
_PER_DAY = within(1, 1e12, "at least one a day")


class LimitsSpec(Spec):
    """Declared limits; None: what the replies' headers tell. `pace: true` holds a request back until the limits allow it, which its
    send lag shows; `false` sends as planned, and every 429 is a row. Nothing is ever sent twice."""

    rpm: Annotated[int, _PER_MINUTE] | None = Field(default=None, description="requests a minute")
    tpm: Annotated[int, _PER_MINUTE] | None = Field(default=None, description="tokens a minute, prompt + max_tokens")
    input_tpm: Annotated[int, _PER_MINUTE] | None = Field(default=None, description="prompt tokens a minute")
    output_tpm: Annotated[int, _PER_MINUTE] | None = Field(default=None, description="max_tokens a minute")
    rpd: Annotated[int, _PER_DAY] | None = Field(default=None, description="requests a day, of any 24 hours")
    tpd: Annotated[int, _PER_DAY] | None = Field(default=None, description="tokens a day, prompt + max_tokens")
    concurrency: Annotated[int, within(1, bounds.MOST_IN_FLIGHT, "requests in flight")] | None = None
    pace: bool = Field(default=True, description="false: driven into the limits, 429s are rows")
    enforced_over_s: Annotated[float, within(0.1, 60, "seconds, at most a minute")] = Field(
        default=60,
        description="the stretch that the provider holds a minute's limit over: 1 where 60 a minute mean one a second",
    )
    settled: bool | None = Field(
        default=None,
        description="tokens that a reply did not use are given back when it ends; None: as the API's documentation says",
    )
