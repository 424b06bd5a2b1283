"""How long a start is waited for."""

from __future__ import annotations

from harness.measure.targets.server.start import Patience


def test_a_log_that_goes_on_is_waited_for_without_end():
    """Two hours of download, a line every 299 s."""
    patience = Patience(300, None)
    assert all(patience.lost(at_s, at_s, "it") is None for at_s in range(1, 7200, 299))


def test_a_silent_log_is_given_up():
    """The last line came at 10 s: 310 s are waited for, not 311."""
    patience = Patience(300, None)
    assert patience.lost(10, 80, "it") is None
    assert patience.lost(310, 80, "it") is None
    assert "said nothing for 300 s" in patience.lost(311, 80, "it").what


def test_a_log_that_never_began_is_silent_from_the_start():
    """A process that hangs before its first line."""
    assert Patience(300, None).lost(301, 0, "it") is not None


def test_a_declared_limit_holds_for_the_whole_start():
    """However much the log says."""
    patience = Patience(300, 900)
    assert patience.lost(900, 5, "it") is None
    assert patience.lost(901, 6, "it").what == "it was not ready after 900 s"


def test_what_is_left_is_the_nearer_of_both_and_at_least_a_second():
    """For the first completion, which the log may not tell of."""
    patience = Patience(300, 900)
    patience.lost(100, 1, "it")
    assert patience.left_s(150) == 250
    patience.lost(800, 2, "it")
    assert patience.left_s(850) == 50
    assert patience.left_s(2000) == 1
    assert Patience(300, None).left_s(100) == 200
