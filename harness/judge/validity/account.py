"""The account's limits: what they did to the load, and whether that is what was asked for.

A paced run is honest about what the account sustains: TTFT from sent is the server's, TTFT from schedule holds the wait, and how late
the client itself was counts from when the pacing let a request go. It is said, and no reason against the run. So are the 429s of a run
that was driven into the limits by choice; of one that was not, they are failures.
"""

from __future__ import annotations

import numpy as np

from harness.judge.account import DRIVEN, PACED, TOO_MANY, account_of, held_s, mode_of
from harness.judge.sides import names_of, served_by
from harness.judge.validity import Evidence, warning
from harness.records import Reason

MAX_HELD_S = 0.05  # p99: more than what asking costs


def refused_by_choice(e: Evidence) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """429s of a run that is driven into the limits; of a hybrid those of its hosted side."""
    refused = e.requests.status.present & (e.requests.status.data == TOO_MANY)
    if names := names_of(e.run):
        refused &= served_by(e.run, names[-1])
    return refused if mode_of(e.run.manifest) == DRIVEN else np.zeros(e.requests.count, np.bool_)


def paced(e: Evidence) -> Reason | None:
    if mode_of(e.run.manifest) != PACED:
        return None
    held = held_s(e.requests)
    p99 = float(np.quantile(held, 0.99)) if len(held) else 0.0
    if p99 <= MAX_HELD_S:
        return None
    account = account_of(e.run, e.requests, e.scalars)
    limit = (
        f" ({account.bound_by} allow {account.feasible_rps:.3g} such requests/s)"
        if account and account.bound_by
        else ""
    )
    rate = e.scalars.get("scheduled_rate_rps")
    asked = f" where {rate:.3g} requests/s were offered" if rate else ""
    return warning(
        "paced",
        f"sends were held back for the account's limits{asked}{limit}: 99 % by up to {p99:.3g} s",
        "throughput is what the account sustains; TTFT from schedule holds the wait, TTFT does not. Offer less, or have the limits raised",
    )


def driven_into_limits(e: Evidence) -> Reason | None:
    refused = int(refused_by_choice(e).sum())
    if not refused:
        return None
    return warning(
        "driven_into_limits",
        f"{refused / e.requests.count:.1%} of {e.requests.count} requests were refused by the account's limits (429), and none sent again",
        "latencies are of those that were admitted; attainment counts the refused as not good",
    )


def account_limit(e: Evidence) -> Reason | None:
    if e.drive.get("stop_reason") != "account_limit":
        return None
    return warning(
        "account_limit",
        "the run ended early: a limit of the account opens again only much later",
        "the numbers are of what was sent; go on when the day's limit is whole again",
    )


ACCOUNT_CHECKS = (paced, driven_into_limits, account_limit)
