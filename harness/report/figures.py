"""The canvas of every plot: an SVG text that is deterministic, without fonts, scripts or links of its own.

The only module that imports matplotlib. Colours are written as CSS variables with a fallback, so that a page may restyle a figure
for a dark screen while the same text stands alone as an .svg file.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from datetime import UTC
from html import escape
from typing import Any, Self

from harness.report import formats

INK, MUTED, GRID, PAPER = "#1b1f24", "#5b6470", "#d5dae0", "#ffffff"
# Okabe and Ito's colours that keep 3:1 on white and on near black; markers tell series apart without colour
SERIES = ("#0072b2", "#d55e00", "#008a65", "#b0609a", "#8a7300", "#5a6fd0")
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
    colour: f"series-{index}" for index, colour in enumerate(SERIES, 1)
}
_WIDTH_IN = 7.2
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "savefig.transparent": True,
}


def empty(label: str, why: str) -> str:
    """A figure box that says why there is nothing in it."""
    lines = textwrap.wrap(formats.clean(why, 180), 62)
    texts = "".join(
        f'<text x="259" y="{49 - 8 * (len(lines) - 1) + 17 * index}" text-anchor="middle" font-family="sans-serif" '
        f'font-size="12.5" fill="var(--muted, {MUTED})">{escape(line)}</text>'
        for index, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 518 90" role="img" aria-label="{escape(formats.clean(label))}">'
        f'<rect x="1" y="1" width="516" height="88" rx="6" fill="none" stroke="var(--grid, {GRID})" stroke-dasharray="5 4"/>{texts}</svg>'
    )


def log_ticks(ax: Any) -> None:
    """1, 2 and 5 of each decade on two log axes, written as people write numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def time_ticks(ax: Any) -> None:
    """Dates and hours (UTC) on the x axis, as few as tell them apart."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=UTC, maxticks=8)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))


class Figure:
    """Context manager: matplotlib axes stacked with a shared x; on leaving, `svg` holds the finished text."""

    def __init__(self, label: str, rows: int, row_in: float) -> None:
        self.label, self.rows, self.row_in = label, rows, row_in
        self.notes: dict[str, str] = {}
        self.svg = ""
        self.axes: list[Any] = []

    def __enter__(self) -> Self:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure as MplFigure

        self._context = mpl.rc_context(_SETTINGS)
        self._context.__enter__()
        height = self.rows * self.row_in + 0.5
        self._figure = MplFigure(figsize=(_WIDTH_IN, height), layout="constrained")
        FigureCanvasSVG(self._figure)
        self.axes = list(self._figure.subplots(self.rows, 1, sharex=True, squeeze=False)[:, 0])
        return self

    def note(self, artist: Any, text: str) -> None:
        """Give an artist a tooltip."""
        gid = f"note-{len(self.notes)}"
        artist.set_gid(gid)
        self.notes[gid] = text

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                buffer = io.StringIO()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a glyph that matplotlib's font lacks is drawn by the browser's
                    self._figure.savefig(
                        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
                    )
                self.svg = self._finish(buffer.getvalue())
        finally:
            self._context.__exit__(None, None, None)

    def _finish(self, text: str) -> str:
        """Make it fit into a page: no prolog, ids of its own, CSS colours, tooltips, a label for screen readers."""
        text = text[text.index("<svg") :].strip()
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        prefix = re.sub(r"[^a-z]+", "-", self.label.lower())
        for gid, note in self.notes.items():
            text = text.replace(
                f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(formats.clean(note, 300))}</title>', 1
            )
        text = re.sub(r'(\bid="|href="#|url\(#)', lambda match: f"{match[1]}{prefix}-", text)
        for colour, name in _VARIABLES.items():
            text = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var(--{name}, {colour})", text)
        text = text.replace("font-family: 'DejaVu Sans', sans-serif", "font-family: system-ui, sans-serif")
        head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{}" role="img" aria-label="{}">'
        label = escape(self.label)  # not part of a pattern's replacement: a backslash in it is only that
        return re.sub(
            r"<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", lambda match: head.format(match[1], label), text, count=1
        )
