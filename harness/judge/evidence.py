"""What a verdict is made of: a run with everything that has been computed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.judge.columns import BoolArray, FloatArray, Requests
from harness.records import Reason, RunData, TokenCheck, Window


@dataclass(frozen=True, slots=True)
class Evidence:
    """`rule` is the window's rule, or why there is none; `population` the ok requests sent in the window."""

    run: RunData
    requests: Requests
    values: Mapping[str, FloatArray]  # per request, see distributions.per_request
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
    def drive(self) -> Mapping[str, Any]:
        """The load generator's report of the measured phase; empty where the run ended before it was written."""
        report: Mapping[str, Any] = self.run.manifest.drive.get("measure") or {}
        return report

    @property
    def open_loop(self) -> bool:
        return self.run.manifest.cell.load.concurrency is None

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
