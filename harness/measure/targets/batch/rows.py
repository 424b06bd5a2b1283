"""What a batch makes: a row for every request, by the lines that the worker writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.base import clock
from harness.records import Outcome, Phase, PlannedRequest, RequestRecord, row_without_reply

_UNKNOWN = [None] * 6  # facts of a request that has none


@dataclass(slots=True)
class Batch:
    """A batch under way: `calls` are positions in `requests`, of which `called` were begun and `returned` came back. `started_ns` is when
    the batch was given to the worker, and from its first call on when that call was made."""

    requests: Sequence[PlannedRequest]
    calls: list[list[int]]
    phase: Phase
    run_id: str
    started_ns: int
    called: int = 0
    returned: int = 0
    ended: bool = False
    done: int = 0
    failed: int = 0

    def take(self, line: dict[str, Any]) -> list[RequestRecord]:
        """Rows of one line of the worker's results: those of a call that returned."""
        if line.get("end"):
            self.ended = True
            return []
        number: int = line["call"]
        self.called = number + 1
        if number == 0:
            self.started_ns = line["called_ns"]
        if "returned_ns" not in line:
            return []
        call, error, ended_ns = self.calls[number], line["error"], line["returned_ns"]
        facts: list[list[Any]] = line["outputs"] or [_UNKNOWN for _ in call]
        outcome = Outcome.OK if error is None else Outcome.ERROR_EVENT
        rows = [
            self._row(self.requests[i], outcome, ended_ns, fact, error) for i, fact in zip(call, facts, strict=True)
        ]
        self.returned += 1
        return self._count(rows)

    def rest(self, why: str, *, aborted: bool) -> list[RequestRecord]:
        """Rows of what has none: a call under way was cut off (by us: cancelled), what no call held yet was dropped."""
        now = clock.monotonic_ns()
        rows = []
        for number in range(self.returned, len(self.calls)):
            cut_off = Outcome.CANCELLED if aborted else Outcome.TRUNCATED
            outcome = cut_off if number < self.called else Outcome.DROPPED
            rows += [self._row(self.requests[i], outcome, now, _UNKNOWN, why) for i in self.calls[number]]
        return self._count(rows)

    def _count(self, rows: list[RequestRecord]) -> list[RequestRecord]:
        self.done += len(rows)
        self.failed += sum(row.outcome != Outcome.OK for row in rows)
        return rows

    def _row(
        self, request: PlannedRequest, outcome: Outcome, ended_ns: int, facts: Sequence[Any], error: str | None
    ) -> RequestRecord:
        prompt_tokens, cached, output_tokens, finish, first_ns, last_ns = facts
        stamps: tuple[int, ...] = ()
        chunk_tokens: tuple[int, ...] | None = None
        if first_ns is not None and last_ns is not None and output_tokens:
            stamps = (first_ns, last_ns) if output_tokens > 1 else (first_ns,)
            chunk_tokens = (1, output_tokens - 1) if output_tokens > 1 else (1,)
        scheduled = None if request.scheduled_ns is None else self.started_ns
        row = row_without_reply(
            request,
            outcome,
            error,
            request_id=f"{self.run_id}-{self.phase.value[0]}{abs(request.seq)}",
            phase=self.phase,
            worker=0,
            scheduled_ns=scheduled,
            due_ns=self.started_ns,
            ended_ns=ended_ns,
        )
        return replace(
            row,
            sent_ns=None if outcome is Outcome.DROPPED else self.started_ns,
            first_token_ns=first_ns if stamps else None,
            last_token_ns=stamps[-1] if stamps else None,
            chunk_ns=stamps,
            chunk_tokens=chunk_tokens,
            prompt_tokens=prompt_tokens,
            cached_prompt_tokens=cached,
            output_tokens=output_tokens,
            finish_reason=finish,
        )
