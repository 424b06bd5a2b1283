"""Rows of the driver against the golden server's log: how far the client's figures are from what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.measure.drive.golden.server import GoldenProcess, Served
from harness.records import Outcome, RequestRecord


@dataclass(frozen=True, slots=True)
class Comparison:
    """Over all requests of a phase; None where there is nothing to compare.

    `whole`: ok replies with every token recorded and nothing more. `lag`: stamp minus the server's own send. `ttft_error`
    and `itl_error`: absolute differences. `server_late`: the server behind its own schedule, which is no error of ours.
    """

    requests: int
    whole: int
    tokens: int
    tokens_per_s: float | None
    requests_per_s: float | None
    lag_p50_s: float | None
    lag_p99_s: float | None
    ttft_error_p50_s: float | None
    ttft_error_p99_s: float | None
    itl_error_p50_s: float | None
    itl_error_p99_s: float | None
    merged_reads: int
    reads: int
    server_late_p99_s: float | None
    server_late_max_s: float | None


def compare(
    rows: Sequence[RequestRecord], truth: Mapping[str, Served], server: GoldenProcess, tokens: int
) -> Comparison:
    """Match rows with the server's log by request id; `tokens`: length of every reply."""
    lags: list[npt.NDArray[np.int64]] = []
    gaps: list[npt.NDArray[np.int64]] = []
    late: list[npt.NDArray[np.float64]] = []
    tokens_seen = whole = 0
    for row in rows:
        served = truth.get(row.request_id)
        tokens_seen += len(row.chunk_ns)
        if served is None or not row.chunk_ns:
            continue
        late.append(server.lateness_s(served))
        whole += row.outcome == Outcome.OK and len(row.chunk_ns) == len(served.sent_ns) == tokens
        if len(row.chunk_ns) == len(served.sent_ns):
            stamps = np.array(row.chunk_ns, np.int64)
            lags.append(stamps - served.sent_ns)
            gaps.append(np.diff(stamps) - np.diff(served.sent_ns))
    lag_p50, lag_p99 = quantiles(lags, 0.5, 0.99)
    first_p50, first_p99 = quantiles([np.abs(lag[:1]) for lag in lags], 0.5, 0.99)
    gap_p50, gap_p99 = quantiles([np.abs(gap) for gap in gaps], 0.5, 0.99)
    late_p99, late_max = quantiles([seconds * 1e9 for seconds in late], 0.99, 1.0)
    sent = [row.sent_ns for row in rows if row.sent_ns is not None]
    last = [row.last_token_ns for row in rows if row.last_token_ns is not None]
    seconds = (max(last) - min(sent)) / 1e9 if sent and last else 0.0
    spread_s = (max(sent) - min(sent)) / 1e9 if sent else 0.0
    return Comparison(
        requests=len(rows),
        whole=whole,
        tokens=tokens_seen,
        tokens_per_s=tokens_seen / seconds if seconds > 0 else None,
        requests_per_s=(len(sent) - 1) / spread_s if spread_s > 0 else None,
        lag_p50_s=lag_p50,
        lag_p99_s=lag_p99,
        ttft_error_p50_s=first_p50,
        ttft_error_p99_s=first_p99,
        itl_error_p50_s=gap_p50,
        itl_error_p99_s=gap_p99,
        merged_reads=sum(row.merged_reads for row in rows),
        reads=sum(row.reads for row in rows),
        server_late_p99_s=late_p99,
        server_late_max_s=late_max,
    )


def quantiles(parts: Sequence[npt.NDArray[np.generic]], *at: float) -> list[float | None]:
    """Quantiles in seconds of nanoseconds that come in pieces."""
    flat = np.concatenate(parts) if parts else np.empty(0)
    if not len(flat):
        return [None] * len(at)
    return [float(value) / 1e9 for value in np.quantile(flat.astype(np.float64), at)]
