"""What a refusal of an API is, and when so many have come that nothing more is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.base.errors import RefusedError, TargetError
from harness.config.target import TargetSpec, place_of
from harness.records import Outcome, RequestRecord

IN_A_ROW = 20
REFUSED = "refused"  # a drive's stop_reason
# OpenAI, Azure, DeepSeek, OpenRouter, Anthropic and LiteLLM in the words or codes of their errors; a mere rate limit says none of them ..
_NO_MONEY = re.compile(
    r"(?i)insufficient[ _](?:quota|balance|credit|fund)|billing[ _]hard[ _]limit|credit balance|out of credits"
    r"|spend(?:ing)?[ _]limit|budget has been exceeded"
)
_PERHAPS_NO_MONEY = re.compile(r"(?i)exceeded your current quota")  # .. but Google's says this
_NO_MODEL = re.compile(
    r"(?i)model[ _]not[ _](?:found|exist)|(?:invalid|unknown|no such)[ _]model|model\b.{0,120}\bdoes not exist"
)
KEY, CREDIT, MODEL = "key", "credit", "model"  # what is refused


def refusal_of(row: RequestRecord) -> str | None:
    """What an API refuses with this reply, so that it will refuse the next request too: the key, a key without credit, the model."""
    if row.outcome != Outcome.HTTP_ERROR or row.http_status is None:
        return None
    return refusal_of_status(row.http_status, row.error or "")


def refusal_of_status(status: int, said: str) -> str | None:
    """The same of a status and what was said with it."""
    if not 400 <= status < 500:
        return None
    if status == 402 or _NO_MONEY.search(said) or _PERHAPS_NO_MONEY.search(said):
        return CREDIT
    if status in (401, 403):
        return KEY
    return MODEL if status == 404 or (status in (400, 422) and _NO_MODEL.search(said)) else None


class Refusals:
    """Counts refusals as rows come; anything else that was answered begins the count anew.

    `at_once`: a hosted API, where the first is enough. Its 403, 404 and 429 are enough only where no request was answered before:
    later they may be of one prompt, one moment.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._answered = False
        self.in_a_row = 0
        self.last: RequestRecord | None = None
        self.enough = False

    def note(self, rows: Sequence[RequestRecord]) -> None:
        for row in rows:
            if self.enough:
                return
            kind = refusal_of(row)
            if kind is not None and (self._at_once or kind != MODEL):
                self.in_a_row += 1
                self.last = row
                self.enough = self.in_a_row >= IN_A_ROW or (self._at_once and self._is_sure(kind, row))
            elif row.http_status is not None:
                self.in_a_row = 0
                self._answered = self._answered or row.http_status < 400

    def _is_sure(self, kind: str, row: RequestRecord) -> bool:
        if kind == CREDIT:
            return row.http_status == 402 or bool(_NO_MONEY.search(row.error or ""))
        return row.http_status == 401 or not self._answered

    def error(self, spec: TargetSpec, rows_at: object) -> TargetError:
        """What to tell: three lines."""
        assert self.last
        said = self.last.error or f"HTTP {self.last.http_status}"
        stored = f"every reply is a row in {rows_at}"
        if not self._at_once:
            advice = f"look at the key, its rights and the account's balance; {stored}"
            return TargetError(f"the target {spec.name} refused {IN_A_ROW} requests in a row", said, advice)
        key = place_of(spec) or "the key"
        what, advice = {
            KEY: ("refused the key", f"look at {key} and its rights"),
            CREDIT: ("has no credit for the key", f"look at the balance and the limits of the account of {key}"),
            MODEL: (
                f"does not know the model {spec.model}",
                "look at model, url and api; `harness probe URL` lists models",
            ),
        }[str(refusal_of(self.last))]
        return RefusedError(
            f"the target {spec.name} {what} (HTTP {self.last.http_status}): no more is sent",
            said,
            f"{advice}; {stored}",
        )
