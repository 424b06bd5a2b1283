"""Published arithmetic: what it may be made of, and the record of both sides."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.planner.scenario.claims import Claim, compare, evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 7 + 2 * 3 ", "13"), ("7 - 2 - 3", "2"), ("8 / 5", "1.6"), ("0.1 + 0.2", "0.3"), ("-a", "-2.5"), ("ceil(2.1)", "3"),
        ("ceil(-2.1)", "-2"), ("max(1, a, 2)", "2.5"), ("min(3, a)", "2.5"), ("2 * (a - 1)", "3.0"), ("1e3", "1000"), ("zero", "0"),
    ],
)  # fmt: skip
def test_arithmetic_over_numbers_and_names(text, value):
    """Exact decimals: + - * /, signs, brackets, ceil, max and min of any count."""
    found = evaluate(text, {"a": D("2.5"), "zero": D(0)})
    assert found == D(value)
    assert isinstance(found, D)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("b + 1", "unknown name b; known: a, c"), ("True", "True is not a number"), ("None", "None is not a number"),
        ("b'1'", "b'1' is not a number"), ("a if a else 1", "only"), ("ceil(x=1)", "only"), ("+a", "only"), ("a // 2", "only"),
        ("a.real", "only"), ("sum(a)", "only"), ("[1]", "only"), ("1j", "only"),
    ],
)  # fmt: skip
def test_what_is_not_arithmetic_says_which_part(text, says):
    """The text is shown; the reason names what is wrong, an unknown name with those there are."""
    with pytest.raises(ConfigError, match="not arithmetic") as error:
        evaluate(text, {"c": D(1), "a": D(1)})
    assert error.value.value == text
    assert says in error.value.advice


def test_errors_of_decimal_and_of_python_are_errors_of_the_text():
    """A division by 0, of 0 by 0, too many arguments, a text that ends too early."""
    for text in ("1 / a", "a / a", "ceil(1, 2)", "(1", "max(1)"):
        with pytest.raises(ConfigError, match="not arithmetic") as error:
            evaluate(text, {"a": D(0)})
        assert error.value.advice


def test_a_figure_that_is_not_known_makes_it_unknown():
    """Anywhere in it, and before a name that there is not is looked for."""
    assert evaluate("1 + max(2, never)", {"never": None}) is None
    assert evaluate("never + nowhere", {"never": None}) is None


def test_both_sides_of_a_claim():
    """Ours with the figures, theirs with numbers only; a side without arithmetic has no number."""
    values = {"a": D(3)}
    assert compare(7, "s", "$4", "2 * 2", "a * 2", "USD", "r", values) == Claim(
        7, "s", "$4", "2 * 2", D(4), "a * 2", D(6), "USD", "r"
    )
    assert compare(None, "s", "", "", "", "h", "r", values) == Claim(None, "s", "", "", None, "", None, "h", "r")
    with pytest.raises(ConfigError, match="not arithmetic"):
        compare(7, "s", "", "a", "", "USD", "r", values)
