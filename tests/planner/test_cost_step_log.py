"""Steps read out of log lines that were written by hand: every field of every row, for each way of timing them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.planner.attribution.step_log import PRINTED, STAMPS, WHOLE_SECONDS, Steps, parse, together

CACHE = "(EngineCore pid=1) INFO 11-24 12:00:00 [kv_cache_utils.py:2327] GPU KV cache size: {:,} tokens, Maximum concurrency"


def line(at, prefill, decode, ms, kv="2.5", dummy=""):
    """One step as vLLM prints it; `at`: month-day and time; kv None: without the cache's use."""
    used = "" if kv is None else f", GPU KV cache usage: {kv}%"
    return (
        f"(APIServer pid=9) INFO {at} [loggers.py:199] Engine 000: Iteration(7): 1 context requests, {prefill} context tokens, "
        f"{decode} generation requests, {decode + 1} generation tokens, iteration elapsed time: {ms} ms{dummy}{used}"
    )


def shown(steps):
    """Every field, arrays as lists."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(steps).items()}


TEN = [(8 * n, n, 1.5 + n) for n in range(10)]  # prefill tokens, decode sequences, ms


def test_steps_by_their_printed_time():
    """Milliseconds as seconds, tokens of the cache only where a step decodes, and the cache's size out of the log."""
    lines = [CACHE.format(40_000), "INFO something else", *(line("11-24 12:00:01", p, d, ms) for p, d, ms in TEN)]
    assert shown(parse(lines, "chat")) == {
        "seconds": pytest.approx([0.0015 + n / 1000 for n in range(10)]),
        "steps": [1.0] * 10,
        "prefill_tokens": [8.0 * n for n in range(10)],
        "decode_seqs": [float(n) for n in range(10)],
        "kv_tokens": [0.0] + [1000.0] * 9,  # 2.5 % of 40,000; the first does not decode
        "shapes": ("chat",) * 10,
        "timed_by": PRINTED,
        "resolution_s": 1e-5,
        "every_step": (10.0, 360.0, 45.0, 9000.0),
    }
    assert parse(lines, "chat").count == 10


def test_the_size_of_the_cache_that_is_given_counts_before_the_logs():
    """And the log's first line about it before a later one; without any, the cache's use is not known."""
    steps = [line("11-24 12:00:01", p, d, ms) for p, d, ms in TEN]
    tokens = lambda found: None if found.kv_tokens is None else found.kv_tokens[1]  # noqa: E731
    assert tokens(parse([CACHE.format(40_000), *steps], "x", kv_cache_tokens=2000)) == 50
    assert tokens(parse([CACHE.format(40_000), *steps, CACHE.format(80_000)], "x")) == 1000
    assert tokens(parse(steps, "x")) is None
    assert parse(steps, "x").every_step == (10.0, 360.0, 45.0, 0.0)
    unsaid = [line("11-24 12:00:01", 1, 1, 2.0, kv=None), *steps]
    assert tokens(parse(unsaid, "x", kv_cache_tokens=2000)) is None
    assert parse(unsaid, "x", kv_cache_tokens=2000).every_step == (11.0, 361.0, 46.0, 0.0)


def test_dummy_steps_are_left_out():
    """What an engine runs to keep others in step is no work."""
    lines = [line("11-24 12:00:01", p, d, ms) for p, d, ms in TEN]
    assert parse([line("11-24 12:00:01", 5, 5, 2.0, dummy=" (dummy)"), *lines], "x").count == 10


@pytest.mark.parametrize(("ms", "timed_by"), [(0.5, PRINTED), (0.49, STAMPS)])
def test_a_median_printed_below_half_a_millisecond_was_not_waited_for(ms, timed_by):
    """Then the stamps count."""
    lines = [line(f"11-24 12:00:00.{n:03}", 1, 1, ms) for n in range(1, 10)]
    assert parse(lines, "x").timed_by == timed_by


def test_steps_by_their_stamps():
    """Since the line before; a step that does not decode may follow an idle engine and is left out after a long gap, 8 usual ones."""
    eighths = [0, 1, 2, 3, 3, 4, 12, 21, 30, 31]
    decode = [1, 1, 1, 1, 1, 1, 0, 0, 1, 1]
    lines = [
        line(f"11-24 12:00:{at / 8:06.3f}", n, d, 0.03) for n, (at, d) in enumerate(zip(eighths, decode, strict=True))
    ]
    found = parse([CACHE.format(4000), *lines], "x")
    # gaps in eighths of a second: 1 1 1 0 1 8 9 9 1: the 0 is none, and 9 is more than 8 x 1 where nothing decodes
    assert shown(found) == {
        "seconds": [0.125, 0.125, 0.125, 0.125, 1.0, 1.125, 0.125],
        "steps": [1.0] * 7,
        "prefill_tokens": [1.0, 2.0, 3.0, 5.0, 6.0, 8.0, 9.0],
        "decode_seqs": [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0],
        "kv_tokens": [100.0, 100.0, 100.0, 100.0, 0.0, 100.0, 100.0],
        "shapes": ("x",) * 7,
        "timed_by": STAMPS,
        "resolution_s": 1e-3,
        "every_step": (10.0, 45.0, 8.0, 800.0),
    }


def test_lines_of_one_instant_are_no_usual_gap():
    """Seven of ten have the same stamp: the usual gap is an eighth of a second all the same, and one of eight times that is kept."""
    eighths = [0, 0, 0, 0, 0, 0, 0, 1, 2, 10]
    found = parse([line(f"11-24 12:00:{at / 8:06.3f}", 1, int(at < 10), 0.03) for at in eighths], "x")
    assert found.seconds.tolist() == [0.125, 0.125, 1.0]


def test_an_empty_cache_has_no_tokens():
    """0.0 % of it is none, in a step that decodes too."""
    lines = [line("11-24 12:00:01", 1, 1, 2.0, kv="0.0")] * 8
    assert parse(lines, "x", kv_cache_tokens=4000).kv_tokens.tolist() == [0.0] * 8


def test_steps_by_whole_seconds():
    """A second counts that has a busy one on either side; its steps share it."""
    seconds = [1, 1, 2, 2, 2, 3, 5, 6, 6, 7]
    lines = [line(f"11-24 12:00:0{at}", n, 1 + n % 2, 0.03) for n, at in enumerate(seconds)]
    assert shown(parse([CACHE.format(4000), *lines], "x")) == {
        "seconds": [1.0, 1.0],
        "steps": [3.0, 2.0],
        "prefill_tokens": [2.0 + 3 + 4, 7.0 + 8],
        "decode_seqs": [1.0 + 2 + 1, 2.0 + 1],
        "kv_tokens": [300.0, 200.0],
        "shapes": ("x", "x"),
        "timed_by": WHOLE_SECONDS,
        "resolution_s": 1.0,
        "every_step": (10.0, 45.0, 15.0, 1000.0),
    }


def test_one_stamp_of_whole_seconds_is_enough():
    """Its fraction may have been cut: no difference to it is known."""
    lines = [line(f"11-24 12:00:0{n}.500", 1, 1, 0.03) for n in range(8)]
    assert parse([line("11-24 12:00:00", 1, 1, 0.03), *lines], "x").timed_by == WHOLE_SECONDS


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        ("11-24 12:00:00.{n:03}", 0.001),
        ("11-24 12:00:00,{n:03}", 0.001),  # Python's own way to write it
        ("11-24 12:00:0{n}.5", 1),
        ("11-24 12:0{n}:00.5", 60),
        ("11-24 1{n}:00:00.5", 3600),
        ("11-2{n} 12:00:00.5", 24 * 3600),
        ("0{n}-24 12:00:00.5", 31 * 24 * 3600),  # a month of 31 days
    ],
)
def test_a_stamp(stamps, seconds):
    """Months, days, hours, minutes, seconds and their fraction; a difference is in seconds."""
    found = parse([line(stamps.format(n=n), 1, 1, 0.03) for n in range(1, 10)], "x")
    assert found.seconds == pytest.approx([seconds] * 8, abs=1e-8)


def test_one_run_of_several():
    """Lines from the first to the last instant, both in, in the server's local time."""
    lines = [line(f"11-24 12:00:{n:02}.250", n, 1, 2.0) for n in range(30)]
    between = (datetime(2026, 11, 24, 12, 0, 5, 250_000), datetime(2026, 11, 24, 12, 0, 14, 250_000))  # noqa: DTZ001
    assert parse(lines, "x", between=between).prefill_tokens.tolist() == [float(n) for n in range(5, 15)]
    between = (datetime(2026, 11, 24, 12, 0, 5, 250_001), datetime(2026, 11, 24, 12, 0, 14, 249_999))  # noqa: DTZ001
    assert parse(lines, "x", between=between).prefill_tokens.tolist() == [float(n) for n in range(6, 14)]


def test_one_run_of_several_in_a_log_of_whole_seconds():
    """A stamp without a fraction is the second it says."""
    lines = [line(f"11-24 12:00:{n:02}", n, 1, 2.0) for n in range(30)]
    between = (datetime(2026, 11, 24, 12, 0, 5), datetime(2026, 11, 24, 12, 0, 14))  # noqa: DTZ001
    assert parse(lines, "x", between=between).prefill_tokens.tolist() == [float(n) for n in range(5, 15)]


def test_ways_of_timing_by_their_names():
    """As reports print them."""
    assert (PRINTED, STAMPS, WHOLE_SECONDS) == (
        "time printed for each step", "differences of log stamps", "log stamps of whole seconds, one busy second a row",
    )  # fmt: skip


def test_logs_whose_steps_cannot_be_timed():
    """Fewer than 8 steps, and seconds of which none has neighbours: said with the shape and what to do."""
    steps = [line("11-24 12:00:01", p, d, ms) for p, d, ms in TEN]
    assert parse(steps[:8], "x").count == 8
    with pytest.raises(ConfigError) as error:
        parse(steps[:7], "chat")
    assert (error.value.what, error.value.value) == ("too few engine steps in the server's log", "chat: 7")
    with pytest.raises(ConfigError) as error:
        parse([line("11-24 12:00:01", 1, 1, 0.03)] * 9, "chat")
    assert (error.value.what, error.value.value) == (
        "no step in the server's log can be timed", f"chat: {WHOLE_SECONDS}",
    )  # fmt: skip
    with pytest.raises(ConfigError) as error:
        parse([line("11-24 12:00:01.5", 1, 0, 0.03)] * 9, "chat")
    assert error.value.value == f"chat: {STAMPS}"


def part(seconds, kv, timed_by, resolution_s, every_step):
    column = np.array(seconds)
    kv_tokens = None if kv is None else np.array(kv)
    shapes = (timed_by[:1],) * len(seconds)
    return Steps(column, column * 2, column * 3, column * 4, kv_tokens, shapes, timed_by, resolution_s, every_step)


def test_several_logs_together():
    """One after the other; the coarsest clock; the cache where every log knows it."""
    one, two = (
        part([1.0, 2.0], [5.0, 6.0], "b", 0.5, (1.0, 2.0, 3.0, 4.0)),
        part([3.0], [7.0], "a", 0.25, (10.0, 20.0, 30.0, 40.0)),
    )
    whole = {
        "seconds": [1.0, 2.0, 3.0], "steps": [2.0, 4.0, 6.0], "prefill_tokens": [3.0, 6.0, 9.0], "decode_seqs": [4.0, 8.0, 12.0],
        "kv_tokens": [5.0, 6.0, 7.0], "shapes": ("b", "b", "a"), "timed_by": "a; b", "resolution_s": 0.5,
        "every_step": (11.0, 22.0, 33.0, 44.0),
    }  # fmt: skip
    assert shown(together([one, two])) == whole
    other = part([3.0], None, "b", 0.25, (10.0, 20.0, 30.0, 40.0))
    assert shown(together([one, other])) == {**whole, "kv_tokens": None, "shapes": ("b", "b", "b"), "timed_by": "b"}
    with pytest.raises(ConfigError) as error:
        together([])
    assert (error.value.what, error.value.value) == ("no engine steps", "no log")
