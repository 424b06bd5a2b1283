import io

import pytest

from harness.records import DriveProgress
from harness.report import live as live_module
from harness.report.live import Live, progress_words, status_line

HALF = DriveProgress(done=60, total=120, in_flight=16, failed=2, output_tokens=1920, elapsed_s=12.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def hands(monkeypatch):
    """A clock whose hands the test moves."""
    now = [0]
    monkeypatch.setattr(live_module.clock, "monotonic_ns", lambda: now[0])
    return now


def _use(stream, hands=None, steps=0):
    with Live(stream, width=80) as live:
        live.phase("server start")
        live.say("hello \x1b[31m[/bold]\nthere")
        live.cell(1, 9, "t_fixed_c16_rep1")
        live.phase("measuring")
        for step in range(steps):
            hands[0] = step * 1_000_000_000
            live.progress(DriveProgress(step, steps, 4, 0, step * 100, float(step)))


def test_log_gets_phases_at_once_and_progress_every_five_seconds(hands):
    """Twenty-one updates a second apart give four progress lines, plus one line a phase, a cell and a saying."""
    out = io.StringIO()
    _use(out, hands, 21)
    lines = out.getvalue().splitlines()
    assert sum("requests, " in line and "in flight" in line for line in lines) == 4
    assert lines[:4] == ["server start", "hello \ufffd[31m[/bold]", "there", "server start: 0.0 s"]
    assert "cell 1/9 t_fixed_c16_rep1" in lines
    assert lines[-1] == "[cell 1/9] measuring: 20 s, 20 of 21 requests, 0 failed, 100.0 tok/s"
    assert "\x1b" not in out.getvalue()


def test_terminal_gets_one_live_line_and_keeps_what_was_said(monkeypatch):
    """On a terminal lines said stay, and the live line is taken away at the end."""
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    _use(out)
    assert "hello" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K")


def test_no_color_is_honoured(monkeypatch):
    """With NO_COLOR no colour sequence is written, even on a terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    _use(out)
    assert "\x1b[3" not in out.getvalue()
    assert "\x1b[38" not in out.getvalue()


@pytest.mark.parametrize("width", range(0, 130, 7))
def test_status_line_fits_any_width(width):
    """The live line is never wider than asked, down to nothing."""
    assert len(status_line("[cell 1/9] measuring", HALF, 163.0, 12.0, width)) <= width
    assert len(status_line("server start", None, None, 12.0, width)) <= width


def test_status_line_says_everything_where_there_is_room():
    """Done and total, failed, tok/s, in flight, elapsed and ETA, with a bar half full."""
    line = status_line("measuring", HALF, 163.0, 12.0, 120, ascii_only=True)
    assert line == "measuring ##########---------- 60/120 requests, 2 failed, 163.0 tok/s, 16 in flight, 12 s, ETA 12 s"


def test_eta_is_absent_until_a_request_is_done():
    """Nothing done, nothing to extrapolate; nothing left, nothing to wait for."""
    for done in (0, 120):
        words = progress_words(DriveProgress(done, 120, 1, 0, 0, 1.0), None)
        assert not any(word.startswith("ETA") for word in words)


def test_rate_is_that_of_the_last_seconds(hands):
    """After a stall the rate shown falls, although the mean of the phase is still high."""
    live = Live(io.StringIO())
    live.phase("measuring")
    for second, tokens in ((0, 0), (2, 2000), (4, 2000)):
        hands[0] = second * 1_000_000_000
        live.progress(DriveProgress(1, 2, 1, 0, tokens, float(second)))
    assert live._tps == 0


def test_a_closed_stream_does_not_end_the_run():
    """Writing to a stream that was closed under us raises nothing, nor does a process without stderr."""
    out = io.StringIO()
    with Live(out) as live:
        out.close()
        live.phase("measuring")
        live.progress(HALF)


def test_a_process_without_stderr_still_runs(monkeypatch):
    """sys.stderr is None in a process started with it closed."""
    monkeypatch.setattr(live_module.sys, "stderr", None)
    with Live() as live:
        live.say("x")


def test_words_that_the_stream_cannot_encode_are_replaced():
    """An ASCII log gets question marks, not an exception."""
    raw = io.BytesIO()
    with Live(io.TextIOWrapper(raw, encoding="ascii", write_through=True)) as live:
        live.say("köln …")
        assert raw.getvalue() == b"k?ln ?\n"
