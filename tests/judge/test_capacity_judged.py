"""A probe's result as a whole, and when exactly it is decided, against Wilson's interval and batch means by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from harness.judge.capacity.probe import Estimate, Reply, Watch, estimate, unevenness
from harness.records import ProbeResult

S = 1_000_000_000
CLEAR = 0.00135  # one-sided, 3 standard errors


def replies(outcomes, *, gap_s=0.1, stay_s=0.5, ttft_s=0.5):
    return [
        Reply(i, round(i * gap_s * S), round((i * gap_s + stay_s) * S), fine, ttft_s, 10, ok=True, prompt_tokens=100)
        for i, fine in enumerate(outcomes)
    ]


def watching(given, attainment=0.9, shortest_s=1.0, **kw):
    watch = Watch(10.0, attainment, shortest_s, **kw)
    watch.add(given)
    return watch


def wilson(p, n, z):
    """(low, high) by Wilson 1927, as the roots of (p - x)^2 = z^2 x (1 - x) / n."""
    a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def inflated(batches, least=1.0, uneven=1.0):
    """Variance of a request's batch means over p (1 - p), and what is assumed where few batches hold a miss."""
    n, k = sum(offered for offered, _ in batches), len(batches)
    p = sum(good for _, good in batches) / n
    found = max(1.0, least)
    if k > 1 and 0 < p < 1:
        spread = sum((good - p * offered) ** 2 for offered, good in batches) / (k - 1) / (n / k)
        found = max(found, spread / (p * (1 - p)))
    return max(found, 4 * uneven**2) if sum(good < offered for offered, good in batches) < 3 else found


BATCHES = {
    "alike": [(100, 97)] * 10,
    "scattered": [(100, 90), (101, 100), (99, 80), (100, 100), (100, 95), (102, 60)],
    "two with misses": [(10, 10)] * 8 + [(10, 9), (10, 8)],
    "three with misses": [(10, 10)] * 7 + [(10, 9), (10, 9), (10, 9)],
    "all good": [(20, 20)] * 4,
    "none good": [(20, 0)] * 4,
    "one batch": [(40, 36)],
    "two batches": [(40, 36), (40, 20)],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    ("z", "least", "uneven"), [(1.96, 1.0, 1.0), (3.0, 0.5, 1.0), (1.0, 6.0, 1.5), (2.0, 1.0, 3.0)]
)
def test_the_estimate_is_wilsons_on_so_many_effective_requests(name, z, least, uneven):
    """Share, interval and effective requests of batches of every kind."""
    batches = BATCHES[name]
    n = sum(offered for offered, _ in batches)
    p, effective = sum(good for _, good in batches) / n, n / inflated(batches, least, uneven)
    low, high = wilson(p, effective, z)
    found = estimate(batches, z, least, uneven)
    assert found == Estimate(
        pytest.approx(p),
        pytest.approx(max(0.0, low), abs=1e-12),
        pytest.approx(min(1.0, high)),
        pytest.approx(effective),
    )
    assert 0.0 <= found.low <= found.high <= 1.0
    assert estimate(batches, z) == estimate(batches, z, 1.0, 1.0)


def test_unevenness_is_pollaczek_khinchines():
    """(1 + cv^2) / 2, and 1 where that is less or nobody knows."""
    assert [unevenness(cv2) for cv2 in (None, 0.0, 1.0, 1.5, 5.0)] == [1.0, 1.0, 1.0, 1.25, 3.0]


def test_the_result_as_a_whole():
    """100 replies of 0.5 s, one a tenth second, the last two missed: what is judged begins half a second after the first."""
    given = replies([True] * 98 + [False] * 2)
    sizes = [94 * (k + 1) // 10 - 94 * k // 10 for k in range(9)]
    batches = (*((size, size) for size in sizes), (10, 8))
    low, high = wilson(92 / 94, 94 / inflated(batches), 1.96)
    assert watching(given, shortest_s=1e9).result(3, "run") == ProbeResult(
        index=3, rate_rps=10.0, scheduled_rate_rps=pytest.approx(93 / 9.3), seconds=9.9, offered=94, good=92, batches=batches,
        attainment=92 / 94, low=pytest.approx(low), high=pytest.approx(high), effective_requests=pytest.approx(94 / inflated(batches)),
        output_tokens=940, completed_rps=pytest.approx(95 / 9.9), verdict="undecided", stopped="longest probe", run_id="run", work_cv2=0.0, stay_s=0.5,
    )  # fmt: skip
    assert inflated(batches) == pytest.approx(4.0)


def test_what_is_judged_begins_after_the_median_stay_or_a_quarter():
    """Of the first 30: replies of 2 s and then 60 s leave out 2 s; of 60 s all along a quarter of the schedule."""
    quick = [replace(one, ended_ns=one.scheduled_ns + (2 if one.seq < 16 else 60) * S) for one in replies([True] * 200)]
    assert watching(quick, shortest_s=1e9).result(1).offered == 200 - 21
    slow = [replace(one, ended_ns=one.scheduled_ns + 60 * S) for one in quick]
    assert watching(slow, shortest_s=1e9).result(1).offered == 200 - 50  # 19.9 / 4 = 4.975 s
    # of 29 replies nothing is left out, of 30 the ramp is
    assert [watching(replies([True] * n)).result(1).offered for n in (29, 30)] == [29, 24]


def test_a_probe_of_one_or_no_reply():
    """One is judged and spans no time; none is invalid: no rate, no share, no tokens per second."""
    one, none = (watching(replies([True] * n)).result(1) for n in (1, 0))
    low, high = wilson(1.0, 1 / 4, 1.96)
    assert one == ProbeResult(
        1,
        10.0,
        None,
        0.0,
        1,
        1,
        ((1, 1),),
        1.0,
        pytest.approx(low),
        pytest.approx(high),
        0.25,
        10,
        None,
        "undecided",
        "longest probe",
        stay_s=0.5,
    )
    assert (none.verdict, none.offered, none.good, none.batches, none.output_tokens, none.seconds) == (
        "invalid",
        0,
        0,
        (),
        0,
        0.0,
    )
    assert none.stopped == "no request was answered or given up in time to be judged"
    assert (
        none.scheduled_rate_rps
        is none.attainment
        is none.low
        is none.high
        is none.effective_requests
        is none.completed_rps
        is None
    )
    told = watching(replies([True])).result(2, invalid="late")
    assert (told.verdict, told.stopped, told.run_id) == ("invalid", "late", None)
    two = watching(replies([True] * 2)).result(1)
    assert (two.scheduled_rate_rps, two.work_cv2, two.completed_rps) == (pytest.approx(10.0), 0.0, 0.0)


def test_tokens_are_of_ok_requests_that_all_say_them():
    """A reply that is not ok counts no token; an ok one that does not say makes the sum unknown."""
    given = replies([True] * 20)
    given[5] = replace(given[5], ok=False, output_tokens=None)
    assert watching(given).result(1).output_tokens == 190
    given[6] = replace(given[6], output_tokens=None)
    assert watching(given).result(1).output_tokens is None


def decided_at(given, **kw):
    """How many replies had come when it was decided, and what; None if never."""
    watch = Watch(10.0, **{"attainment": 0.5, "shortest_s": 5.0, **kw})
    for count, one in enumerate(given, 1):
        watch.add([one])
        if (said := watch.decide()) is not None:
            assert watch.decide() == said
            return count, said
    return None


def test_it_is_looked_at_30_replies_and_then_at_a_fifth_more():
    """30, 36, 44, 53: the shortest time of 5 s is over with the 51st reply, so the 53rd decides; of 5.2 s at it, of more at the next, 64."""
    good, bad = replies([True] * 99), replies([False] * 99)
    assert decided_at(good) == decided_at(good, shortest_s=5.2) == (53, "stop: pass")
    assert decided_at(good, shortest_s=5.21) == (64, "stop: pass")
    # most missed: its shortest time need not be over, unless it is patient; 30 replies less the ramp are too few to judge
    assert decided_at(bad) == (36, "stop: fail")
    assert decided_at(bad, patient=True) == (53, "stop: fail")
    assert (
        decided_at(replies([True] * 35, stay_s=0.0), attainment=0.4, shortest_s=0.0) is None
    )  # of the first 30, 29 are judged
    assert decided_at(replies([True] * 36, stay_s=0.0), attainment=0.4, shortest_s=0.0) == (36, "stop: pass")


def misses(count, of=94):
    """Replies of which `count` miss, evenly among those that are judged (from the seventh on)."""
    return [not (i >= 6 and (i - 6) * count // of != (i - 5) * count // of) for i in range(6 + of)]


@pytest.mark.parametrize(("inflation", "uneven"), [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0)])
def test_a_pass_is_above_the_target_by_three_standard_errors(inflation, uneven):
    """Attainment 92/94 at the lower end of Wilson's interval: a target just below it is passed, one just above is not clear."""
    given = replies(misses(2))
    if uneven > 1:  # one in eight of 71 tokens: cv^2 of prompt tokens alike is less
        given = [replace(one, output_tokens=71 if one.seq % 8 == 0 else 1) for one in given]
        tokens = np.array([one.output_tokens for one in given[6:]], float)
        uneven = (1 + tokens.var(ddof=1) / tokens.mean() ** 2) / 2
    batches = watching(given).result(1).batches
    low, _ = wilson(92 / 94, 94 / inflated(batches, inflation, uneven), norm.isf(CLEAR))
    for target, verdict in ((low - 1e-9, ("pass", "clearly above")), (low + 1e-9, ("undecided", "longest probe"))):
        result = watching(given, target, inflation=inflation).result(1)
        assert (result.verdict, result.stopped) == verdict
    assert watching(given, low - 1e-9, 9.9, inflation=inflation).result(1).verdict == "pass"
    assert watching(given, low - 1e-9, 9.91, inflation=inflation).result(1).verdict == "undecided"


@pytest.mark.parametrize(("count", "missing"), [(1, 1), (2, 2), (5, 5), (40, 10)])
def test_a_fail_is_below_the_target_by_students_t_of_the_batches_with_misses(count, missing):
    """The spread is only as well known as there are batches with misses, less one."""
    given = replies(misses(count))
    batches = watching(given).result(1).batches
    assert sum(good < offered for offered, good in batches) == missing
    z = student.isf(CLEAR, max(1, missing - 1))
    _, high = wilson(1 - count / 94, 94 / inflated(batches), z)
    for target, verdict in ((high + 1e-9, "fail"), (high - 1e-9, "undecided")):
        if target < 1:
            assert watching(given, target).result(1).verdict == verdict


def test_a_probe_is_hopeless_below_one_half():
    """Of 94, 47 good is not, 46 is: failed before its shortest time is over, unless it is to be heard out."""
    for count, verdict in ((47, "undecided"), (48, "fail")):
        assert watching(replies(misses(count)), 0.99, 1e9).result(1).verdict == verdict
    assert watching(replies(misses(48)), 0.99, 1e9, patient=True).result(1).verdict == "undecided"


def backlog(count, unanswered, *, late_ttft_s=1.51, early_ttft_s=1.0):
    """Replies of no time but the last, unanswered when the last of all was due; TTFT of the first and the last third."""
    judged = replies([True] * (count + 1), stay_s=0.0)
    found = []
    for i, one in enumerate(judged):
        ended = judged[-1].scheduled_ns + 1 if i > count - unanswered else one.scheduled_ns
        third = count // 3
        ttft = early_ttft_s if i <= third else late_ttft_s if i > count - third else 99.0
        found.append(replace(one, ended_ns=ended, ttft_s=ttft))
    return found


@pytest.mark.parametrize(
    ("given", "grows"),
    [
        (backlog(400, 81), True),  # 4 sqrt(400) = 80
        (backlog(400, 80), False),
        (backlog(2500, 251), True),  # a tenth of 2,500
        (backlog(2500, 250), False),
        (backlog(400, 91, late_ttft_s=1.5), False),
        (backlog(400, 91, late_ttft_s=None), False),
        (backlog(400, 91, early_ttft_s=None), False),
    ],
)
def test_a_queue_grows_by_its_backlog_and_its_wait(given, grows):
    """More unanswered at the end than a tenth of all and than 4 of their deviations; and a median TTFT of 1.5 times and more."""
    watch = watching(given, 0.999999, 1e9)
    result = watch.result(1)
    assert result.offered == len(given) - 1
    assert (result.verdict, result.stopped) == (("fail", "queue growing") if grows else ("undecided", "longest probe"))


def test_growth_is_beyond_the_backlog_of_the_first_tenth():
    """Five of the first forty are answered only after the next was due, five when it was: five more are needed at the end."""

    def verdict(unanswered):
        given = backlog(400, unanswered)
        for i in range(1, 11):  # 1..400 are judged, 1..40 are their first tenth
            given[i] = replace(given[i], ended_ns=given[41].scheduled_ns + (i <= 5))
        return watching(given, 0.999999, 1e9).result(1).verdict

    assert (verdict(85), verdict(86)) == ("undecided", "fail")


def test_the_work_of_a_probe_is_of_ok_replies():
    """cv^2 of prompt tokens where those differ more: of two replies by hand, of one not known."""
    given = [
        replace(one, prompt_tokens=tokens, ok=tokens != 5)
        for one, tokens in zip(replies([True] * 3), (10, 30, 5), strict=True)
    ]
    assert watching(given).result(1).work_cv2 == pytest.approx(200 / 20**2)
    assert watching(given[:1]).result(1).work_cv2 is None
    assert watching([replace(one, prompt_tokens=0, output_tokens=0) for one in given]).result(1).work_cv2 is None
