from decimal import Decimal

import pytest

from harness.records import Load
from harness.report import formats
from tests.report.report_values import HOSTILE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (0.0, "0"),
        (12345.6, "12,346"),
        (163.44, "163.4"),
        (999.96, "1,000"),
        (16.34, "16.3"),
        (9.996, "10.0"),
        (0.01634, "0.0163"),
        (1.0, "1.00"),
        (-0.5, "-0.500"),
        (1_234_567, "1,234,567"),
        (2e-7, "2e-07"),
    ],
)
def test_number_has_three_or_four_digits_and_no_zero_for_none(value, text):
    """Numbers carry 3 to 4 significant digits, thousands separated, and absent ones are a dash."""
    assert formats.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("x", "-"),
        ("NaN", "-"),
        ("0", "$0"),
        ("0.0123456", "$0.0123"),
        ("12.3456", "$12.35"),
        ("12345.6", "$12,346"),
        ("1234.5", "$1,234.50"),
        ("-3.2", "-$3.20"),
        (Decimal("0.9999"), "$1.00"),
        ("1E-20", "$1.00e-20"),
    ],
)
def test_usd_is_exact_enough_and_none_is_a_dash(value, text):
    """Dollars show cents from one dollar up and 3 significant digits below it; None is never $0."""
    assert formats.usd(value) == text


def test_percent_never_rounds_up_to_all():
    """A share just below one is not printed as 100 %."""
    assert (formats.percent(1.0), formats.percent(0.999999), formats.percent(0.995), formats.percent(None)) == (
        "100 %",
        "> 99.99 %",
        "99.5 %",
        "-",
    )


def test_duration_is_in_ms_below_a_second():
    """Small times are in ms, larger ones in s, absent ones a dash."""
    assert [formats.duration(s) for s in (0.0431, 12.34, None)] == ["43.1 ms", "12.3 s", "-"]


def test_clean_takes_every_control_character_out():
    """No escape, newline or direction mark of a text from outside survives."""
    text = formats.clean("a\x1b[31m\r\nb\x00\u202ec\ud800")
    assert text == "a\ufffd[31m b\ufffd\ufffdc\ufffd"
    assert formats.clean("x" * 50, 10) == "x" * 9 + "…"


def test_markdown_of_outside_words_is_inert():
    """Neither markup, HTML, a table bar nor a mention survives md_text; a code span outgrows the backticks in it."""
    text = formats.md_text(HOSTILE)
    assert "<" not in text
    assert "@everyone" not in text
    assert all(text[i - 1] == "\\" for i, c in enumerate(text) if c in "|`*$")
    assert formats.md_code("a`b``c|d", cell=True) == "```a`b``c\\|d```"


def test_run_ids_share_what_comes_before_the_repetition():
    """Repetitions of one cell are listed after one stem; other ids stay whole."""
    assert formats.run_ids(["a_rep1", "a_rep2", "b"]) == "a_rep1,2, b"


def test_load_words_of_both_loops():
    """A closed loop names its concurrency, an open loop its rate and arrivals."""
    assert formats.load_words(Load(concurrency=16)) == "concurrency 16"
    assert formats.load_words(Load(rate_rps=2.5)) == "2.5 req/s poisson"


@pytest.mark.parametrize(("value", "text"), [(12.4, "12x"), (2.34, "2.3x"), (1.067, "1.07x"), (1234.0, "1,234x")])
def test_ratio_in_words(value, text):
    """A factor has two to three digits."""
    assert formats.ratio(value) == text
