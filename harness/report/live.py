"""What a run is doing, on stderr while it does it: one live line on a terminal, now and then a plain line in a log."""

from __future__ import annotations

import contextlib
import io
import sys
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

from harness.base import clock
from harness.records import DriveProgress
from harness.report import formats

_PLAIN_EVERY_NS = 5 * clock.NS
_RATE_OVER_NS = 2 * clock.NS
_BAR_CELLS = 20


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fall silent; rich would end the process, and with it the run."""
        self.quiet = True


class Live:
    """Progress of `harness run`. Never raises for a display that is narrow, closed or not UTF-8.

    On a terminal: lines said scroll by above one live status line. Elsewhere: a line at each phase and cell and one
    every 5 s. All goes to stderr; NO_COLOR and TERM=dumb are honoured by rich. `stream` and `width` are for tests.
    """

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None) -> None:
        # a process started with stderr closed has none: its progress goes nowhere
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self._console = _Console(file=self._stream, width=width, highlight=False, markup=False, emoji=False)
        self._fancy = self._console.is_terminal and not self._console.is_dumb_terminal
        self._rich: RichLive | None = None
        self._phase = ""
        self._phase_ns = clock.monotonic_ns()
        self._cell = ""
        self._progress: DriveProgress | None = None
        self._tps: float | None = None
        self._mark: tuple[int, int] = (0, 0)  # (stamp, output tokens) from which the rate is counted
        self._printed_ns = 0

    def __enter__(self) -> Self:
        if self._fancy:
            self._rich = RichLive(
                get_renderable=self._renderable, console=self._console, transient=True, refresh_per_second=4,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            with contextlib.suppress(OSError, ValueError):
                self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()

    # ------------------------------------------------------------ what the main path calls

    def say(self, text: str) -> None:
        """A line that stays."""
        for line in text.splitlines() or [""]:
            self._print(formats.clean(line))

    def phase(self, name: str) -> None:
        """A new phase: model, server start, warm-up, measuring; the one before it is closed with its duration."""
        self._close_phase()
        self._phase, self._phase_ns, self._progress, self._tps = (
            formats.clean(name, 80),
            clock.monotonic_ns(),
            None,
            None,
        )
        if not self._fancy:
            self._print(self._where())

    def cell(self, index: int, total: int, name: str) -> None:
        """Cell `index` of `total` (from 1) begins."""
        self._close_phase()
        self._cell = f"cell {index}/{total} {formats.clean(name, 120)}"
        self._phase, self._phase_ns, self._progress = "", clock.monotonic_ns(), None
        self._print(self._cell)

    def progress(self, progress: DriveProgress) -> None:
        """New counts of the phase in progress."""
        now = clock.monotonic_ns()
        if self._progress is None or progress.elapsed_s < self._progress.elapsed_s:
            self._mark, self._tps, self._printed_ns = (now, progress.output_tokens), None, now
        elif now - self._mark[0] >= _RATE_OVER_NS:
            self._tps = (progress.output_tokens - self._mark[1]) / ((now - self._mark[0]) / clock.NS)
            self._mark = (now, progress.output_tokens)
        self._progress = progress
        if not self._fancy and now - self._printed_ns >= _PLAIN_EVERY_NS:
            self._printed_ns = now
            self._print(f"{self._where()}: {', '.join(progress_words(progress, self._tps))}")

    def done(self) -> None:
        """Close the last phase and take the live line away; may be called twice."""
        self._close_phase()
        self._phase = ""
        live, self._rich = self._rich, None
        if live is not None:
            with contextlib.suppress(OSError, ValueError):
                live.stop()

    # ------------------------------------------------------------ how it is shown

    def _where(self) -> str:
        short = self._cell.split(" ")
        return f"[{' '.join(short[:2])}] {self._phase}".strip() if self._cell else self._phase

    def _close_phase(self) -> None:
        if not self._phase:
            return
        text = f"{self._where()}: {_clock_text((clock.monotonic_ns() - self._phase_ns) / clock.NS)}"
        counts = self._progress
        if counts is not None:
            of = "" if counts.duration_s is not None else f" of {counts.total:,}"
            text += f", {counts.done:,}{of} requests, {counts.failed:,} failed"
            text += f", {formats.number(counts.output_tokens / counts.elapsed_s)} tok/s" if counts.elapsed_s > 0 else ""
        self._print(text)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed pipe must not end a run
            encoding = self._console.encoding or "utf-8"
            plain = text.encode(encoding, "replace").decode(encoding)
            if self._fancy:
                self._console.print(Text(plain), soft_wrap=True)
            else:
                self._stream.write(plain + "\n")
                self._stream.flush()

    def _renderable(self) -> Text:
        elapsed = (clock.monotonic_ns() - self._phase_ns) / clock.NS
        line = status_line(
            self._where() or "starting", self._progress, self._tps, elapsed, self._console.width - 1,
            ascii_only=not (self._console.encoding or "").lower().startswith("utf"),
        )  # fmt: skip
        return Text(line, no_wrap=True, overflow="crop", style="bold")


def progress_words(progress: DriveProgress, tps: float | None) -> list[str]:
    """The counts as words, the most important first; the rate is that of the last seconds, else of the whole phase."""
    if tps is None and progress.elapsed_s > 0:
        tps = progress.output_tokens / progress.elapsed_s
    timed = progress.duration_s is not None
    words = [f"{progress.done:,}{'' if timed else f'/{progress.total:,}'} requests"]
    words += [f"{progress.failed:,} failed"] if progress.failed else []
    words += [f"{formats.number(float(tps))} tok/s"] if tps is not None else []
    words += [f"{progress.in_flight:,} in flight"]
    if progress.duration_s is not None:
        return [*words, f"{_clock_text(progress.elapsed_s)} of {_clock_text(progress.duration_s)}"]
    words.append(_clock_text(progress.elapsed_s))
    if 0 < progress.done < progress.total:
        words.append(f"ETA {_clock_text(progress.elapsed_s / progress.done * (progress.total - progress.done))}")
    return words


def status_line(
    where: str,
    progress: DriveProgress | None,
    tps: float | None,
    elapsed_s: float,
    width: int,
    *,
    ascii_only: bool = False,
) -> str:
    """One line of at most `width` characters: place, bar, counts; what does not fit is left out from the end."""
    if progress is None:
        return f"{where} {_clock_text(elapsed_s)}"[: max(0, width)]
    words = progress_words(progress, tps)
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    share = _share(progress)
    bar = full * round(share * _BAR_CELLS) + empty * (_BAR_CELLS - round(share * _BAR_CELLS))
    for count in range(len(words), 0, -1):
        for front in (f"{where} {bar} ", f"{where} "):
            line = front + ", ".join(words[:count])
            if len(line) <= width:
                return line
    return words[0][: max(0, width)]


def _share(progress: DriveProgress) -> float:
    """How much of the phase is over, 0 to 1."""
    part, whole = (
        (progress.done, progress.total) if progress.duration_s is None else (progress.elapsed_s, progress.duration_s)
    )
    return min(1.0, part / whole) if whole > 0 else 0.0


def _clock_text(seconds: float) -> str:
    """`4.2 s`, `38 s`, `2:05`, `1:02:05`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
