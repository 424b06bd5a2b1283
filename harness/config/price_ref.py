"""Which hosted price is meant: one of the price book, or an own one."""

from __future__ import annotations

from pydantic import Field

from harness.base import bounds
from harness.base.bounds import Spec


class PriceRef(Spec):
    """A hosted price: provider and model id as genai-prices names them, or an own price per million tokens.

    `cached_input_tokens`, `cache_write_.._tokens`: what the API's own prompt cache does with one request, as declared.
    """

    provider: bounds.Word
    model: bounds.Word
    input_usd_per_million: bounds.UsdPerMillion | None = None
    output_usd_per_million: bounds.UsdPerMillion | None = None
    cached_input_usd_per_million: bounds.UsdPerMillion | None = None
    cache_write_5m_usd_per_million: bounds.UsdPerMillion | None = None
    cache_write_1h_usd_per_million: bounds.UsdPerMillion | None = None
    cached_input_tokens: bounds.Tokens | None = Field(
        default=None, description="of a prompt, read from the API's cache"
    )
    cache_write_5m_tokens: bounds.Tokens = Field(default=0, description="of a prompt, written into it for 5 minutes")
    cache_write_1h_tokens: bounds.Tokens = Field(default=0, description="of a prompt, written into it for an hour")
    source: str | None = None
    as_of: bounds.Day | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def has_dollars(self) -> bool:
        """Whether it gives prices of its own, and is not looked up."""
        return self.input_usd_per_million is not None or self.output_usd_per_million is not None
