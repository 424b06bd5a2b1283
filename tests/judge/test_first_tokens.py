"""What another promise on the first token would come to, told from one number a request: the same as judging the run under it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import failed, request, run

FROM_SCHEDULE = {"ttft_from_schedule_s": 0.05, "tpot_s": 0.02}
FROM_SEND = {"ttft_s": 0.05, "e2el_s": 0.3}


def requests(ttfts_s, gaps_s):
    """An open loop of 40 requests a second whose replies take what is given, in turn; every ninth fails."""
    made = []
    for seq in range(400):
        one = request(
            seq,
            0.025 * seq,
            scheduled_s=0.025 * seq - 0.002,
            ttft_s=ttfts_s[seq % len(ttfts_s)],
            gap_s=gaps_s[seq % len(gaps_s)],
        )
        made.append(failed(one) if seq % 9 == 0 else one)
    return made


def judged(made, slo):
    return summarise(run(made, Load(rate_rps=40.0), slo=slo))


@pytest.mark.parametrize("slo", [FROM_SCHEDULE, FROM_SEND], ids=["from_schedule", "from_send"])
@settings(max_examples=40)
@given(
    ttfts_s=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=7),
    gaps_s=st.lists(st.floats(0.001, 0.04), min_size=1, max_size=5),
    limit_s=st.floats(0.001, 0.3),
)
def test_another_limit_keeps_as_many_as_a_run_judged_under_it(slo, ttfts_s, gaps_s, limit_s):
    """Attainment at any limit is that of the same run whose experiment promises just that limit."""
    made = requests(ttfts_s, gaps_s)
    seen = judged(made, slo).first_tokens
    under = judged(made, slo | {seen.metric: limit_s})
    assert seen.attainment(limit_s) == under.scalars["attainment"]
    assert seen.rest == {name: limit for name, limit in slo.items() if name != seen.metric}


def test_without_a_window_there_is_nothing_to_promise():
    """A run of which nothing was sent has no first tokens, and says None instead of none."""
    assert judged([failed(request(0, 0.0, scheduled_s=0.0), sent=False)], FROM_SEND).first_tokens is None
