"""When to stop asking: an API that refuses the key, wants to be paid, or whose quota is spent will refuse the next request too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.records import Outcome, RequestRecord

IN_A_ROW = 20
REFUSED = "refused"  # a drive's stop_reason
_STATUS = frozenset((401, 402, 403))
# OpenAI, Azure, DeepSeek, OpenRouter and Anthropic in the words or codes of their errors; a mere rate limit says none of them.
_NO_MONEY = re.compile(
    r"(?i)insufficient[ _](?:quota|balance|credit|fund)|exceeded your current quota|billing[ _]hard[ _]limit"
    r"|credit balance|out of credits|spend(?:ing)?[ _]limit"
)


def is_refusal(row: RequestRecord) -> bool:
    """A 401, 402 or 403, or a 4xx that says that there is no money or quota left."""
    if row.outcome != Outcome.HTTP_ERROR or row.http_status is None or not 400 <= row.http_status < 500:
        return False
    return row.http_status in _STATUS or bool(_NO_MONEY.search(row.error or ""))


class Refusals:
    """Counts them as rows come; anything else that was answered begins the count anew."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.last = ""  # what the API said

    def note(self, rows: Sequence[RequestRecord]) -> None:
        for row in rows:
            if self.enough:
                return
            if is_refusal(row):
                self.in_a_row += 1
                self.last = row.error or f"HTTP {row.http_status}"
            elif row.http_status is not None:
                self.in_a_row = 0

    @property
    def enough(self) -> bool:
        return self.in_a_row >= IN_A_ROW
