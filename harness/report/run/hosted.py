"""What stands on a page of a target at a URL: the way there apart from its server, and what its account sustains. Values for all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.judge.account import limit_name
from harness.records import Account, AccountLimit, NetworkPath, RunSummary
from harness.report import formats

NETWORK_TITLE, ACCOUNT_TITLE = "Network path", "Account limits"
NETWORK_HEADERS = (
    "cell", "round trip p50 (5-95 %)", "before: DNS / TCP / tunnel / TLS", "after", "TTFT p50", "TTFT less path, an estimate", "from", "UTC hour",
)  # fmt: skip
ACCOUNT_HEADERS = ("cell", "limit", "declared", "told", "offered load asks", "most admitted", "")
NETWORK_NOTE = (
    "TTFT less path = median TTFT - median HTTP round trip (HEAD, on an idle connection beside the load): an estimate of what the server "
    "took. The round trip holds what the API does for any request, and not what a long prompt takes to go up. TTFT stays the measured number."
)


def _ms(seconds: float | None) -> str:
    return formats.ABSENT if seconds is None else f"{formats.number(seconds * 1000)} ms"


def cell_of(run: RunSummary) -> str:
    cell = run.cell
    return formats.clean(f"{cell.target}, {formats.load_words(cell.load)}, rep {cell.repetition}", 120)


def network_rows(summaries: Sequence[RunSummary]) -> list[tuple[str, ...]]:
    """One row a run with round trips, in the order of NETWORK_HEADERS."""
    return [_network_row(run, run.network) for run in summaries if run.network is not None]


def _network_row(run: RunSummary, path: NetworkPath) -> tuple[str, ...]:
    def steps(found: Any) -> str:
        return " / ".join(_ms(found.get(name)) for name in ("dns_s", "tcp_s", "tunnel_s", "tls_s"))

    failed = f", {path.failed} failed" if path.failed else ""
    less = _ms(path.ttft_less_path_s)
    if path.ttft_less_path_s is not None:
        less += f" ({_ms(path.ttft_less_path_low_s)} - {_ms(path.ttft_less_path_high_s)})"
    where = [path.region or "", *path.places, f"proxy {path.proxy}" if path.proxy else ""]
    where.append("fresh connections" if path.connections == "fresh" else "")
    return (
        cell_of(run),
        f"{_ms(path.round_trip_p50_s)} ({_ms(path.round_trip_low_s)} - {_ms(path.round_trip_high_s)}; n = {path.round_trips}{failed})",
        steps(path.before),
        steps(path.after),
        _ms(path.ttft_p50_s),
        less,
        formats.clean(", ".join(word for word in where if word), 200) or formats.ABSENT,
        formats.ABSENT if path.utc_hour is None else f"{path.utc_hour:02}",
    )


def account_rows(summaries: Sequence[RunSummary]) -> list[tuple[str, ...]]:
    """One row a limit of each run that has any, in the order of ACCOUNT_HEADERS."""
    return [_account_row(run, limit) for run in summaries if run.account is not None for limit in run.account.limits]


def _account_row(run: RunSummary, limit: AccountLimit) -> tuple[str, ...]:
    over = limit.demand is not None and limit.demand > limit.allowed
    return (
        cell_of(run),
        limit_name(limit.kind, limit.window_s),
        formats.number(limit.declared),
        formats.number(limit.told),
        formats.number(limit.demand),
        formats.number(limit.most_admitted),
        formats.ABSENT if limit.demand is None else "not feasible" if over else "feasible",
    )


def account_sentences(summaries: Sequence[RunSummary]) -> list[str]:
    """One a run: what the account sustained, and whether the offered load is feasible at all."""
    return [f"{cell_of(run)}: {_sentence(run.account)}" for run in summaries if run.account is not None]


def _sentence(account: Account) -> str:
    parts = ["what it sustains takes a minute or more to see"]
    if account.requests_per_min is not None or not account.refused:
        per_minute = formats.number(account.requests_per_min), formats.number(account.tokens_per_min)
        parts = [f"sustained {per_minute[0]} requests and {per_minute[1]} tokens a minute"]
    if account.mode == "paced":
        waited = f", 99 % by up to {formats.duration(account.held_p99_s)}" if account.held_p99_s else ""
        parts.append(f"paced: {account.held:,} of {account.requests:,} requests waited for the limits{waited}")
    if account.refused:
        after = (
            f", which asked to wait {formats.duration(account.retry_after_p50_s)}" if account.retry_after_p50_s else ""
        )
        by_choice = "driven into the limits: " if account.mode == "driven" else ""
        parts.append(f"{by_choice}{account.refused:,} of {account.requests:,} were refused (429){after}")
    if account.feasible_rps is not None:
        allowed = (
            f"{formats.number(account.feasible_rps * 60)} such requests a minute are allowed, by {account.bound_by}"
        )
        if account.offered_rps is not None:
            words = "feasible" if account.feasible else "NOT feasible"
            allowed += f": the offered {formats.number(account.offered_rps * 60)} a minute are {words}"
        parts.append(allowed)
    return "; ".join(parts)


def as_values(run: RunSummary) -> dict[str, Any]:
    """Of one run for --json: `network` and `account`, null where there is none."""
    account = None
    if run.account is not None:
        account = {**asdict(run.account), "feasible": run.account.feasible}
    return {"network": None if run.network is None else asdict(run.network), "account": account}
