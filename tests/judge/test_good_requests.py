"""Which requests keep a promise: ok ones only, whatever stamps the others kept; alike in the summary and the capacity search."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.capacity.probe import Reply, replies
from harness.judge.columns import measured
from harness.judge.metrics import good, per_request
from harness.records import Outcome, RequestRecord
from tests.judge.run_builder import frame, ns, request

KEPT = request(0, 1.0, scheduled_s=1.0)
LIMITS = {"ttft_from_schedule_s": 0.05, "ttft_s": 0.05, "ttfvt_s": 0.05, "tpot_s": 0.01, "e2el_s": 0.12}


def both(record: RequestRecord, slo: dict[str, float]) -> tuple[bool, bool | None]:
    requests = measured(frame([record], RequestRecord))
    return bool(good(requests, per_request(requests), slo)[0]), replies([record], slo)[0].good


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_a_failed_request_that_kept_its_stamps_is_not_good(outcome):
    """A reply that broke off after tokens as quick as promised keeps no promise; of one that we cancelled the search knows
    nothing. E2EL is left out: it is null for what failed, which would hide the rest."""
    slack = {name: 100.0 for name in LIMITS if name != "e2el_s"}
    assert both(KEPT, slack) == (True, True)
    assert both(replace(KEPT, outcome=outcome), slack) == (False, None if outcome is Outcome.CANCELLED else False)


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_is_kept_at_its_value_and_broken_just_beyond(name):
    """A value equal to the limit is good, one of a nanosecond more is not."""
    value = per_request(measured(frame([KEPT], RequestRecord)))[name][0]
    assert value == pytest.approx(LIMITS[name])
    assert both(KEPT, {name: value}) == (True, True)
    assert both(KEPT, {name: value - 1e-9}) == (False, False)


def test_every_limit_must_be_kept():
    """One broken limit among kept ones is enough."""
    slack = {name: limit + 1e-6 for name, limit in LIMITS.items()}
    assert both(KEPT, slack) == (True, True)
    for name, limit in LIMITS.items():
        assert both(KEPT, slack | {name: limit / 2}) == (False, False)


def test_a_reply_as_a_whole():
    """Stamps, TTFT from the schedule, tokens and uncached prompt tokens of a row; one without an end ended when it was due."""
    row = replace(request(7, 2.0, scheduled_s=1.5, ttft_s=0.25, tokens=8, prompt=100), cached_prompt_tokens=64)
    assert replies([row], {})[0] == Reply(7, ns(1.5), row.ended_ns, True, 0.75, 8, ok=True, prompt_tokens=36)
    (lost,) = replies([replace(row, ended_ns=None, outcome="dropped", first_token_ns=None)], {})
    assert lost == Reply(7, ns(1.5), ns(1.5), False, None, 8, ok=False, prompt_tokens=36)


@pytest.mark.parametrize(
    ("changes", "tpot_s"),
    [
        ({}, 0.01),
        ({"chunk_tokens": None, "output_tokens": 15}, 0.07 / 14),
        ({"chunk_tokens": (3,) + (1,) * 7, "output_tokens": 10}, 0.01),
        # 100 hidden tokens of reasoning come with the first chunk by running usage, or with none
        ({"chunk_tokens": (101,) + (1,) * 7, "output_tokens": 108, "reasoning_tokens": 100, "reasoning_chunks": 0}, 0.01),
        ({"chunk_tokens": None, "output_tokens": 108, "reasoning_tokens": 100, "reasoning_chunks": None}, 0.01),
        ({"chunk_tokens": (1,) * 8, "output_tokens": 108, "reasoning_tokens": 100, "reasoning_chunks": None}, 0.07 / 107),
        ({"chunk_tokens": None, "output_tokens": 108, "reasoning_tokens": 100, "reasoning_chunks": 4}, 0.07 / 107),
    ],
)  # fmt: skip
def test_a_reply_keeps_a_tpot_of_its_streamed_tokens(changes, tpot_s):
    """The limit a little above and a little below the TPOT by hand."""
    row = replace(request(0, 1.0, scheduled_s=1.0), **changes)
    assert [replies([row], {"tpot_s": tpot_s * factor})[0].good for factor in (1.0001, 0.9999)] == [True, False]
