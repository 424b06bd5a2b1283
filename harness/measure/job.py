"""What a phase is driven with and who watches it: all that a driver is given besides its target, whichever driver it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.records import DriveProgress, Load, Outcome, Phase, PlannedRequest, Prompt, RequestRecord

IN_A_ROW = 20
REFUSED = "refused"  # a drive's stop_reason
_STATUS = frozenset((401, 402, 403))
# OpenAI, Azure, DeepSeek, OpenRouter and Anthropic in the words or codes of their errors; a mere rate limit says none of them.
_NO_MONEY = re.compile(
    r"(?i)insufficient[ _](?:quota|balance|credit|fund)|exceeded your current quota|billing[ _]hard[ _]limit"
    r"|credit balance|out of credits|spend(?:ing)?[ _]limit"
)


@dataclass(frozen=True, slots=True)
class Job:
    """One phase of a run. `prompts`: those of `requests`, in their order, taken once. `scratch`: a folder for the driver's own
    files. `duration_s`: no new sends after it, what is in flight ends by itself; None: until the plan is done."""

    requests: Sequence[PlannedRequest]
    prompts: Iterable[Prompt]
    load: Load
    phase: Phase
    run_id: str
    scratch: Path
    duration_s: float | None = None


class Watcher(Protocol):
    """Who watches a phase while it is driven; every call comes from the thread that drives."""

    def rows(self, rows: Sequence[RequestRecord], /) -> None:
        """Rows of requests that ended, each once."""

    def progress(self, progress: DriveProgress, /) -> None:
        """A few times a second; from `drive` first when its workers stand and nothing was sent."""

    def should_stop(self) -> str | None:
        """Asked ten times a second or more: "drain" ends sending, "abort" (or any other word, which then is the stop_reason)
        also cancels what is in flight."""

    def ended(self) -> None:
        """Once, after the last row: until it returns, the driver keeps what it received."""


def _is_refusal(row: RequestRecord) -> bool:
    """An API that refuses the key, wants to be paid, or whose quota is spent (a 401, 402, 403, or a 4xx that says so): it will
    refuse the next request too."""
    if row.outcome != Outcome.HTTP_ERROR or row.http_status is None or not 400 <= row.http_status < 500:
        return False
    return row.http_status in _STATUS or bool(_NO_MONEY.search(row.error or ""))


class Refusals:
    """Counts refusals as rows come; anything else that was answered begins the count anew."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.last = ""  # what the API said

    def note(self, rows: Sequence[RequestRecord]) -> None:
        for row in rows:
            if self.enough:
                return
            if _is_refusal(row):
                self.in_a_row += 1
                self.last = row.error or f"HTTP {row.http_status}"
            elif row.http_status is not None:
                self.in_a_row = 0

    @property
    def enough(self) -> bool:
        return self.in_a_row >= IN_A_ROW
