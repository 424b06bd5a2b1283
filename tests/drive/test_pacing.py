"""Pacing against gateways that count as providers do, on a clock of its own: no 429, and no slower than the limits ask."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import pytest

from harness.config.limits import LimitsSpec
from harness.judge.account_limits import learned_window_s
from harness.measure.drive.pacing import Account, Pacing
from harness.measure.drive.rate_headers import read_limits, retry_after_s
from harness.measure.gate import Answer, Asked
from harness.records import PlannedRequest
from tests.fakes.limited_account import LimitedAccount, Rule
from tests.judge.run_builder import request

STEP_S = 0.1
BEGIN_S = 1000.0


class Simulated:
    """A drive of `plan` (due_s, prompt, max_tokens, used) through a gate, against an account; `sent`: (released, seq)."""

    def __init__(self, plan, spec, account, *, settled=False, draw=None, way_s=0.2, reply_s=3.0, known=None):
        self.now_s = BEGIN_S
        self.account = account
        self.known = known or Account()
        self.gate = Pacing(self.known, spec, settled, now_ns=lambda: round(self.now_s * 1e9))
        draw = draw or random.Random(1)
        self.rows, self.released, self.stopped = [], [], False
        self.most_open = 0
        events = []  # (when, order, what, ..)
        waiting = list(enumerate(plan))
        opened = 0
        while (waiting or events) and not self.stopped:
            while events and events[0][0] <= self.now_s:
                _, _, what, *values = heapq.heappop(events)
                if what == "end":
                    opened -= 1
                getattr(self, what)(*values)
            while waiting and waiting[0][1][0] <= self.now_s - BEGIN_S:
                seq, (due_s, prompt, most, used) = waiting[0]
                planned = PlannedRequest(seq, round(due_s * 1e9), prompt, most, None, 0)
                answer = self.gate.ask(Asked(seq, planned, round((BEGIN_S + due_s) * 1e9), 10**6))
                if answer is Answer.STOP:
                    self.stopped = True
                if answer is not Answer.SEND:
                    break
                waiting.pop(0)
                opened += 1
                self.most_open = max(self.most_open, opened)
                self.released.append((self.now_s, seq))
                arrives = self.now_s + draw.uniform(0, way_s)
                heapq.heappush(
                    events, (arrives, seq, "arrive", events, seq, prompt, most, used, self.now_s, draw, reply_s)
                )
            self.now_s = round(self.now_s + STEP_S, 6)

    def arrive(self, events, seq, prompt, most, used, sent_s, draw, reply_s):
        status, headers = self.account.offer(self.now_s, prompt, most)
        for_s = draw.uniform(0, reply_s) if status == 200 else 0.01
        heapq.heappush(
            events, (self.now_s + for_s, seq, "end", seq, prompt, most, used, sent_s, self.now_s, status, headers)
        )

    def end(self, seq, prompt, most, used, sent_s, head_s, status, headers):
        if status == 200:
            self.account.done(self.now_s, most - used)
        with self.known.lock:
            self.known.heads += 1
            self.known.learn(read_limits(headers, seq, round(head_s * 1e9)))
        row = replace(
            request(seq, 0.0, prompt=prompt, tokens=1), target_output_tokens=most, sent_ns=round(sent_s * 1e9),
            ended_ns=round(self.now_s * 1e9), http_status=status, output_tokens=used if status == 200 else None,
            prompt_tokens=prompt if status == 200 else None, outcome="ok" if status == 200 else "http_error",
            retry_after_s=retry_after_s(headers),
        )  # fmt: skip
        self.rows.append(row)
        self.gate.over([row])


def drawn(seed):
    """A random account, what it is told of it, and a random load."""
    draw = random.Random(seed)
    rules = [Rule("requests", draw.randint(1, 60), 60.0, draw.choice(["sliding", "fixed", "bucket"]))]
    if draw.random() < 0.7:
        rules.append(Rule("tokens", draw.randint(1000, 20_000), 60.0, draw.choice(["sliding", "fixed", "bucket"])))
    settles = draw.random() < 0.5
    account = LimitedAccount(rules, settles, tells=draw.random() < 0.7)
    tpm = next((rule.allowed for rule in rules if rule.kind == "tokens"), None)
    rate = draw.uniform(0.1, 3) * rules[0].allowed / 60
    plan, at = [], 0.0
    while at < 150 and len(plan) < 120:
        at += draw.expovariate(rate)
        most = draw.randint(1, (tpm or 1000) // 2)
        plan.append((at, draw.randint(1, (tpm or 1000) // 2), most, draw.randint(0, most)))
    spec = LimitsSpec(rpm=rules[0].allowed, tpm=tpm, concurrency=draw.choice([None, 1, 5]))
    return plan, spec, account, settles, draw


@pytest.mark.parametrize("block", range(4))
def test_paced_never_meets_a_429(block):
    """8 random accounts (sliding, fixed and bucket windows, settled or not, told or not) under random loads: no 429, every request goes
    out, and no more are open than allowed."""
    for seed in range(8 * block, 8 * block + 8):
        plan, spec, account, settles, draw = drawn(seed)
        run = Simulated(plan, spec, account, settled=settles, draw=draw)
        assert account.answers == [200] * len(plan), f"seed {seed}"
        assert run.most_open <= (spec.concurrency or 10**6), f"seed {seed}"


def test_an_account_that_is_not_held_to_meets_429s():
    """The same loads without pacing are refused: the test above is one that can fail."""
    refused = 0
    for seed in range(20):
        plan, _, account, settles, draw = drawn(seed)
        Simulated(plan, LimitsSpec(rpm=10**9), replace(account, tells=False), settled=settles, draw=draw)
        refused += account.answers.count(429)
    assert refused > 100


@pytest.mark.parametrize("how", ["sliding", "fixed", "bucket"])
def test_a_load_above_the_limit_goes_out_as_fast_as_it_allows(how):
    """300 requests at once under 60 a minute: the last goes out in the fifth minute, the pacing adds 2 % for the way."""
    run = Simulated([(0, 10, 10, 10)] * 300, LimitsSpec(rpm=60), LimitedAccount([Rule("requests", 60, 60.0, how)]))
    assert run.account.answers == [200] * 300
    assert 240 <= run.released[-1][0] - BEGIN_S <= 4 * 61.3


def test_a_load_within_the_limits_is_not_held():
    """One a second under 63 a minute: each goes out when it is due."""
    run = Simulated([(i, 10, 10, 10) for i in range(180)], LimitsSpec(rpm=63, tpm=1260), LimitedAccount([]))
    assert [round(at - BEGIN_S - seq, 3) for at, seq in run.released] == [0.0] * 180


def test_settled_tokens_are_used_again():
    """1,000 tokens a minute, 500 asked for and 50 used by each: settled, five times as many go out in three minutes."""
    plan = [(0, 10, 490, 40)] * 60
    counts = []
    for settled in (False, True):
        rule = Rule("tokens", 1000, 60.0)
        run = Simulated(
            plan,
            LimitsSpec(tpm=1000),
            LimitedAccount([rule], settles=settled),
            settled=settled,
            way_s=0.01,
            reply_s=0.5,
        )
        assert set(run.account.answers) == {200}
        counts.append(sum(at < BEGIN_S + 179 for at, _ in run.released))
    assert counts[0] == 6
    assert counts[1] > 30  # a next one must find room for its worst case


def test_enforced_over_a_shorter_stretch():
    """60 a minute that are one a second: none is refused, and 60 take a minute."""
    account = LimitedAccount([Rule("requests", 1, 1.0, "bucket")], tells=False)
    spec = LimitsSpec(rpm=60, enforced_over_s=1)
    run = Simulated([(0, 10, 10, 10)] * 60, spec, account, way_s=0.04)
    assert account.answers == [200] * 60
    assert run.released[-1][0] - BEGIN_S < 80


def test_learned_limits_hold_where_nothing_was_declared():
    """Only told by the heads: the first goes alone, and then none is refused."""
    account = LimitedAccount([Rule("requests", 30, 60.0), Rule("tokens", 3000, 60.0)])
    run = Simulated([(0, 50, 50, 50)] * 90, LimitsSpec(), account)
    assert account.answers == [200] * 90
    assert {(kind, s.limit) for (kind, _), s in run.known.told.items()} == {("requests", 30), ("tokens", 3000)}


def test_retry_after_is_respected():
    """A 429 all the same (somebody else uses the account): nothing goes out until its retry-after is over, and the 429 is a row."""
    account = LimitedAccount([Rule("requests", 5, 60.0, "fixed")], tells=False)
    run = Simulated([(i, 10, 10, 10) for i in range(12)], LimitsSpec(rpm=1000), account)
    statuses = [row.http_status for row in run.rows]
    assert statuses.count(429) >= 1
    first = next(row for row in run.rows if row.http_status == 429)
    after_ns = [round(at * 1e9) for at, _ in run.released if at * 1e9 > first.ended_ns]
    assert min(after_ns) >= first.ended_ns + first.retry_after_s * 1e9
    assert len(run.rows) == 12


def test_what_others_took_is_waited_for():
    """The heads say that less is left than we took: nothing goes out until it is whole again, and nothing is refused."""
    rule = Rule("requests", 20, 60.0, "fixed")
    rule.take(BEGIN_S, 12)
    run = Simulated([(i, 1, 1, 1) for i in range(20)], LimitsSpec(rpm=20), LimitedAccount([rule]), reply_s=0.2)
    assert run.account.answers == [200] * 20
    assert run.released[8][0] - BEGIN_S >= 19.9  # the eighth was the last of this window


def test_a_days_limit_ends_the_drive():
    """Ten a day: ten go out, then it stops and says why."""
    run = Simulated([(i, 10, 10, 10) for i in range(30)], LimitsSpec(rpd=10), LimitedAccount([]))
    assert (len(run.released), run.stopped, run.gate.stop_reason) == (10, True, "account_limit")


def test_the_account_is_shared_by_phases():
    """What the warm-up took is gone for the measured phase that follows."""
    known, account = Account(), LimitedAccount([Rule("requests", 10, 60.0)])
    first = Simulated([(0, 1, 1, 1)] * 10, LimitsSpec(rpm=10), account, known=known)
    first.gate.ended()
    gate = Pacing(known, LimitsSpec(rpm=10), settled=False, now_ns=lambda: round((BEGIN_S + 30) * 1e9))
    assert gate.ask(Asked(0, PlannedRequest(0, 0, 1, 1, None, 0), 0, 9)) is Answer.LATER


def test_what_was_not_sent_takes_nothing():
    """Withdrawn, or admitted and never sent: its place is free again."""
    gate = Pacing(Account(), LimitsSpec(rpm=1), settled=False, now_ns=lambda: round(BEGIN_S * 1e9))
    asked = Asked(0, PlannedRequest(0, 0, 1, 1, None, 0), 0, 9)
    for undo in (lambda: gate.withdraw(asked), gate.ended):
        assert gate.ask(asked) is Answer.SEND
        assert gate.ask(replace(asked, request=replace(asked.request, seq=1))) is Answer.LATER
        undo()
    assert gate.ask(asked) is Answer.SEND


@pytest.mark.parametrize(
    ("seen", "window_s"),
    [
        ([(14400, 14399, 6.0), (14400, 14398, 12.0), (14400, 14390, 60.0)], 86_400),
        ([(60, 59, 1.0), (60, 30, 30.0), (60, 58, 2.0)], 60),
        ([(60, 59, 45.0), (60, 30, 20.0), (60, 58, 5.0)], 60),
        ([(60, 59, 1.0)], 60),
        ([(1000, 999, 5000.0)], 86_400),
        ([(1000, 999, None)], 60),
        ([], 60),
    ],
    ids=["a_day_that_refills", "a_minute_that_refills", "a_fixed_minute", "one_reply", "a_long_reset", "no_reset", "nothing"],
)  # fmt: skip
def test_the_time_of_a_limit_that_does_not_say_it(seen, window_s):
    """By how fast it fills up again, else by the longest reset."""
    assert learned_window_s(seen) == window_s
