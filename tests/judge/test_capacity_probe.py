"""One probe, judged while it runs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from harness.judge.capacity.probe import PASS_NOW, Reply, Watch, estimate, replies
from harness.judge.columns import measured
from harness.judge.metrics import good, per_request
from harness.records import Outcome, RequestRecord
from tests.judge.run_builder import failed, frame, request

S = 1_000_000_000


def spaced(outcomes, gap_s=0.1, stay_s=0.5):
    """One reply every gap, good or not, each staying as long."""
    return [
        Reply(i, int(i * gap_s * S), int((i * gap_s + stay_s) * S), fine, stay_s, 10, ok=True)
        for i, fine in enumerate(outcomes)
    ]


def watched(given, shortest_s=10.0, attainment=0.9, inflation=1.0):
    watch = Watch(10.0, attainment, shortest_s, inflation)
    for one in given:
        watch.add([one])
        if watch.decide() is not None:
            break
    return watch


def test_a_probe_that_is_clearly_above_passes_but_not_before_its_shortest_time():
    """All good: passed soon after the shortest time, long before the replies are used up."""
    watch = watched(spaced([True] * 5000), shortest_s=60)
    result = watch.result(1)
    assert watch.decide() == PASS_NOW
    assert (result.verdict, result.stopped) == ("pass", "clearly above")
    assert 60 <= result.seconds <= 60 * 1.2 + 1


def test_a_probe_passes_after_so_many_e2el():
    """All good, each taking 20 s: with 7 stays asked for it is not passed before 140 s, and its E2EL is told."""
    given = spaced([True] * 5000, stay_s=20.0)
    watch = Watch(10.0, 0.9, 10.0, stays=7)
    for one in given:
        watch.add([one])
        if watch.decide() is not None:
            break
    result = watch.result(1)
    assert (result.verdict, result.stay_s) == ("pass", 20.0)
    assert 140 <= result.seconds <= 140 * 1.2 + 1
    assert watched(given).result(1).seconds < 140


def test_a_probe_that_is_clearly_below_fails():
    """Half the requests miss a target of 90 %: failed within its shortest time and a look."""
    rng = random.Random(1)
    result = watched(spaced([rng.random() < 0.6 for _ in range(5000)])).result(1)
    assert (result.verdict, result.stopped) == ("fail", "clearly below")
    assert result.seconds < 15


def test_a_probe_at_the_target_goes_on_to_its_end():
    """Attainment equal to the target is neither, however long it lasts."""
    rng = random.Random(2)
    result = watched(spaced([rng.random() < 0.9 for _ in range(5000)])).result(1)
    assert (result.verdict, result.stopped) == ("undecided", "longest probe")
    assert result.low < 0.9 < result.high


def test_clusters_of_misses_count_as_few_requests():
    """The same share of misses in long runs is worth far fewer requests than spread out, and decides nothing."""
    rng = random.Random(3)
    runs: list[bool] = []
    while len(runs) < 5000:
        runs += [rng.random() < 0.7] * 100
    apart = runs[:]
    rng.shuffle(apart)
    clustered, spread = (watched(spaced(o), shortest_s=1e9, attainment=0.7).result(1) for o in (runs, apart))
    assert abs(clustered.attainment - spread.attainment) < 0.01
    assert clustered.effective_requests < spread.effective_requests / 5
    assert (clustered.verdict, clustered.low < 0.7 < clustered.high) == ("undecided", True)


def test_nothing_is_judged_beyond_a_request_that_has_not_ended():
    """Quick replies after one that is still running do not count: those that end first are the good ones."""
    given = spaced([True] * 200)
    watch = Watch(10.0, 0.9, 1.0)
    watch.add(given[:50] + given[51:])
    assert watch.result(1).offered <= 50
    watch.add([replace(given[50], good=False)])
    assert watch.result(1).offered > 150


def test_what_we_cancelled_ourselves_is_no_miss():
    """A cancelled request ends what is judged; what came before stands."""
    given = spaced([True] * 100)
    given[60] = replace(given[60], good=None)
    result = watched(given, shortest_s=1e9).result(1)
    assert result.offered == result.good <= 60


def test_a_growing_queue_fails_though_every_request_is_good():
    """Offered twice what is served, with a promise that the queue does not break yet: growth is seen by itself."""
    given = [Reply(i, int(i * 0.1 * S), int(i * 0.2 * S) + S, True, i * 0.1 + 1, 10, ok=True) for i in range(400)]
    result = watched(given, shortest_s=1e9).result(1)
    assert (result.verdict, result.stopped) == ("fail", "queue growing")
    assert result.completed_rps == pytest.approx(5, rel=0.25)


@pytest.mark.parametrize("times", [1.5, 4, 40])
def test_an_overload_is_seen_however_great(times):
    """Offered 1.5, 4 or 40 times what is served: failed after few replies, though each stays longer than all the schedule."""
    given = [
        Reply(i, int(i * 0.1 * S), int((i + 1) * 0.1 * times * S), i < 5, i * 0.1 * times, 10, ok=True)
        for i in range(400)
    ]
    result = watched(given, shortest_s=1e9).result(1)
    assert result.verdict == "fail"
    assert result.offered < 60


def test_a_steady_queue_is_not_growth():
    """A long but steady stay is no growing queue."""
    assert watched(spaced([True] * 400, stay_s=8.0), shortest_s=1e9).result(1).verdict != "fail"


def test_order_of_ends_does_not_matter():
    """The result depends on the replies, not on the order in which they came."""
    rng = random.Random(4)
    given = spaced([rng.random() < 0.95 for _ in range(500)])
    shuffled = given[:]
    rng.shuffle(shuffled)
    one, two = Watch(10.0, 0.95, 1e9), Watch(10.0, 0.95, 1e9)
    one.add(given)
    two.add(shuffled)
    assert one.result(1) == two.result(1)


def test_good_is_what_the_analysis_calls_good():
    """replies() and metrics.good agree on every request, over outcomes, missing stamps and limits."""
    rng = random.Random(5)
    rows = []
    for seq in range(300):
        ttft_s, gap_s, tokens = rng.choice((0.05, 0.15, 0.25)), rng.choice((0.005, 0.015)), rng.choice((1, 2, 8))
        row = request(seq, seq * 0.01 + 0.001, ttft_s=ttft_s, gap_s=gap_s, tokens=tokens, scheduled_s=seq * 0.01)
        rows.append(failed(row, sent=rng.random() < 0.5) if rng.random() < 0.2 else row)
    requests = measured(frame(rows, RequestRecord))
    values = per_request(requests)
    for slo in ({"ttft_from_schedule_s": 0.2}, {"ttft_s": 0.2, "tpot_s": 0.01}, {"e2el_s": 0.15}, {}):
        expected = good(requests, values, slo)
        assert [reply.good for reply in replies(rows, slo)] == expected.tolist()
        assert 0 < expected.sum() < len(rows)
    assert replies([replace(rows[0], outcome=Outcome.CANCELLED)], {})[0].good is None


def test_the_interval_covers_with_independent_requests():
    """Wilson's interval on batches of independent requests covers the truth in 90 % or more of 400 draws."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        found = estimate([(100, int(rng.binomial(100, 0.97))) for _ in range(10)], 1.96)
        covered += found.low <= 0.97 <= found.high
    assert covered >= 360


def test_a_probe_says_how_uneven_its_work_was():
    """The larger cv^2 of prompt tokens, without cached ones, and output tokens of the requests that are ok; None where neither is
    known."""

    def cv2(tokens):
        watch = Watch(10.0, 0.9, 1e9)
        watch.add(
            replace(one, prompt_tokens=tokens(one.seq)[0], output_tokens=tokens(one.seq)[1], ok=one.seq % 7 != 0)
            for one in spaced([True] * 100, stay_s=0.0)
        )
        return watch.result(1).work_cv2

    judged = [seq for seq in range(1, 100) if seq % 7]  # the ramp is the first
    expected = np.var([seq % 5 for seq in judged], ddof=1) / np.mean([seq % 5 for seq in judged]) ** 2
    assert cv2(lambda seq: (100, seq % 5 if seq % 7 else 10_000)) == pytest.approx(expected)
    assert cv2(lambda seq: (seq % 5, 100)) == cv2(lambda seq: (seq % 5, None)) == pytest.approx(expected)
    assert cv2(lambda seq: (100, 10)) == 0.0
    assert cv2(lambda seq: (None, None)) is None
    row = replace(request(0, 0.0, scheduled_s=0.0), prompt_tokens=100, cached_prompt_tokens=64)
    assert replies([row], {})[0].prompt_tokens == 36
    assert replies([replace(row, cached_prompt_tokens=None)], {})[0].prompt_tokens == 100
    assert replies([replace(row, prompt_tokens=None)], {})[0].prompt_tokens is None


def test_uneven_work_is_not_clear_so_soon():
    """400 good requests in a row are a pass where they are alike, and none yet where their lengths have cv^2 7."""
    alike = spaced([True] * 400)
    uneven = [replace(one, output_tokens=71 if one.seq % 8 == 0 else 1) for one in alike]
    assert [watched(given, 10.0).result(1).verdict for given in (alike, uneven)] == ["pass", "undecided"]


def test_no_request_at_all_is_invalid_not_zero():
    """A probe without a judged request has no attainment and is invalid."""
    result = Watch(1.0, 0.9, 1.0).result(1)
    assert result.attainment is None
    assert result.verdict == "invalid"


def test_a_probe_says_which_it_was_and_what_it_offered():
    """Its number, run and both rates; the seconds, requests and tokens of what was judged."""
    watch = Watch(10.0, 0.9, 1e9)
    watch.add(spaced([True] * 99 + [False]))
    result = watch.result(3, run_id="r")
    assert (result.index, result.run_id, result.rate_rps) == (3, "r", 10.0)
    assert result.scheduled_rate_rps == pytest.approx(10.0)
    assert result.seconds == pytest.approx(9.9)
    assert result.offered == sum(offered for offered, _ in result.batches)
    assert result.good == sum(good_ for _, good_ in result.batches) == result.offered - 1
    assert result.output_tokens == 10 * result.offered
    assert watch.result(4, invalid="late").verdict == "invalid"
