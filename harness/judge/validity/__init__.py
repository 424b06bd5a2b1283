"""Whether a run can be believed. A rule looks at the evidence and gives a reason with advice, or none.

INVALID: something is known to be wrong, the numbers must not be used. UNKNOWN: what would show it is missing, or there is too little
of it. A warning changes nothing about the verdict. Limits are constants with their reason beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.judge.columns import BoolArray, FloatArray, Requests
from harness.records import Load, Reason, RunData, TokenCheck, Window


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run with everything that has been computed of it. `rule` is the window's rule, or why there is none; `population` the ok requests sent in the window."""

    run: RunData
    requests: Requests
    values: Mapping[str, FloatArray]  # per request, see metrics.per_request
    window: Window | None
    rule: str
    population: BoolArray
    scalars: Mapping[str, float | None]
    tokens: tuple[TokenCheck, ...]

    @property
    def kind(self) -> str:
        """vllm | adopt | hosted."""
        return str(self.run.manifest.target.get("kind", ""))

    @property
    def load(self) -> Load:
        return self.run.manifest.cell.load

    @property
    def drive(self) -> Mapping[str, Any]:
        """The load generator's report of the measured phase; empty where the run ended before it was written."""
        report: Mapping[str, Any] = self.run.manifest.drive.get("measure") or {}
        return report

    def tokens_of(self, kind: str) -> TokenCheck:
        return next(t for t in self.tokens if t.kind == kind)


def invalid(code: str, message: str, advice: str) -> Reason:
    """The run's numbers must not be used."""
    return Reason(code, "invalid", message, advice)


def unknown(code: str, message: str, advice: str) -> Reason:
    """Whether the numbers are right cannot be told."""
    return Reason(code, "unknown", message, advice)


def warning(code: str, message: str, advice: str) -> Reason:
    """The numbers stand; this limits what they say."""
    return Reason(code, "warning", message, advice)
