"""Every error the harness raises on purpose, with the exit code of its branch.

HarnessError
    ConfigError         2   the user's words or files
    TargetError         3   a server that does not start, answer or stay alive; RefusedError: one that refuses key, account or model
    TelemetryError      4   telemetry that was required is missing
    StoreError          5   a run directory that cannot be written or read
    NotComparableError  6   two runs that must not be compared
    InvalidRunError     7   a run whose numbers are not to be trusted
    RegressionError     8   a comparison that found a regression
    UnreconciledError   9   an invoice and our rows that do not agree to the cent
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from harness.base import redaction

INTERRUPTED = 130  # exit code of what Ctrl-C ended, as shells have it


class HarnessError(Exception):
    """Three lines for the user: what happened, the value that caused it, what to try. No secret stands in them."""

    exit_code = 1

    def __init__(self, what: str, value: object = "", advice: str = "") -> None:
        self.what, self.value, self.advice = (redaction.text(part) for part in (what, value, advice))
        super().__init__(self.what, self.value, self.advice)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.value, self.advice) if line)


class ConfigError(HarnessError):
    """A config key, value or command-line word that cannot be used."""

    exit_code = 2


class TargetError(HarnessError):
    """A server that does not start, does not answer, or answers with the wrong identity."""

    exit_code = 3


class RefusedError(TargetError):
    """An API that refuses the key, the account or the model: whatever else is sent to it would be refused too."""


class TelemetryError(HarnessError):
    """Telemetry that the config requires and this machine does not give."""

    exit_code = 4


class StoreError(HarnessError):
    """A run directory that cannot be written, or a file in it that cannot be read."""

    exit_code = 5


class NotComparableError(HarnessError):
    """Two runs that differ in a key that must be equal; the key is named."""

    exit_code = 6


class InvalidRunError(HarnessError):
    """A run whose verdict is INVALID was asked for money or a number."""

    exit_code = 7


class RegressionError(HarnessError):
    """A comparison that found a regression."""

    exit_code = 8


class UnreconciledError(HarnessError):
    """An invoice and our rows that do not agree to the cent."""

    exit_code = 9


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Advice for a word that is none of the known ones: the three nearest, or `otherwise`."""
    near = get_close_matches(word, list(known), cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else otherwise
