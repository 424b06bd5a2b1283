"""What an API does, found out by asking it: `harness probe URL`."""

from __future__ import annotations

from harness.measure.inquiry.asking import GENERATIONS, OUTPUT_TOKENS, Inquiry
from harness.measure.inquiry.findings import Findings, Opened

__all__ = ["GENERATIONS", "OUTPUT_TOKENS", "Findings", "Inquiry", "Opened"]
