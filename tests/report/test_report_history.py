"""Trends as terminal text, JSON and HTML."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from harness.judge.trends import Night, Trend, trends_of
from harness.report import history
from harness.store.history import NightRow
from tests.bench.history_nights import FIRST, night_id

HOSTILE = "<script>alert(1)</script>\x1b[31m[/red]"


def rows(values, *, gaps=(), target="a", load="c16", step=15):
    return [
        NightRow(
            "e", target, "w", load, night_id(n), FIRST.replace(day=1 + n), int(n not in gaps), int(n in gaps), 0,
            (None if n in gaps else float(v),), {"server_version": "0.33.0" if n >= step else "0.32.0"},
        )
        for n, v in enumerate(values)
    ]  # fmt: skip


def fallen(column="output_tps", **kw) -> tuple[Trend, ...]:
    values = 100 * np.exp(0.005 * np.random.default_rng(1).standard_normal(30))
    values[15:] *= 0.9
    return trends_of(rows(values, **kw), [column])


def text_of(trends, width=160) -> str:
    out = io.StringIO()
    history.render(Console(file=out, width=width, color_system=None), trends)
    return out.getvalue()


def test_the_terminal_names_the_first_bad_night():
    """Date, size, and what else changed stand in the text; gaps are counted."""
    trends = fallen(gaps={3, 4})
    text = text_of(trends)
    assert "first bad night 2026-01-16" in text
    assert f"{trends[0].shifts[0].size * 100:+.{int(abs(trends[0].shifts[0].size) < 0.1)}f} %" in text
    assert "server_version 0.32.0 to 0.33.0" in text
    assert "28 +2x" in text


def test_a_sparkline_has_one_mark_a_night_and_keeps_gaps():
    """Lowest and highest values are the lowest and highest bar, an INVALID night is x, one without a verdict is ?."""
    nights = [Night(str(i), "d", v, 1, 0, 0) for i, v in enumerate((1.0, 2.0, 3.0))]
    gaps = [Night("g", "d", None, 0, 1, 0), Night("u", "d", None, 0, 0, 2)]
    assert history.sparkline([*nights, *gaps], 10) == "▁▅█x?" or history.sparkline([*nights, *gaps], 10) == "▁▄█x?"
    assert history.sparkline(nights, 2) == "▁█"
    assert history.sparkline(gaps, 5) == "x?"


def test_a_sparkline_does_not_blow_up_noise():
    """Nights that differ by 0.1 % lie within two neighbouring bars."""
    nights = [Night(str(i), "d", 100 + 0.1 * (i % 2), 1, 0, 0) for i in range(10)]
    marks = {"▁▂▃▄▅▆▇█".index(c) for c in history.sparkline(nights, 10)}
    assert max(marks) - min(marks) <= 1


def test_json_holds_every_night_and_is_json():
    """Values, gaps and the first bad night come through a JSON text."""
    (document,) = json.loads(json.dumps(history.as_json(fallen(gaps={3}))))
    assert len(document["nights"]) == 30
    assert document["nights"][3]["value"] is None
    assert document["first_bad_night"]["date"] == "2026-01-16"
    assert document["first_bad_night"]["differs"] == {"server_version": ["0.32.0", "0.33.0"]}
    assert document["first_bad_night"]["size"] == pytest.approx(-0.1, abs=0.01)


def test_few_nights_are_said():
    """Five nights: a table, no change, and the words why."""
    text = text_of(trends_of(rows([1.0, 2.0, 3.0, 2.0, 1.0]), ["output_tps"]))
    assert "fewer than 8 nights" in text
    assert "no runs" in text_of(())


def test_the_page_is_one_file_with_a_plot_for_each_series():
    """No script, nothing loaded, ids once each, the dashed line's date in the plot, equal bytes twice."""
    trends = (*fallen(), *fallen(load="c8"))
    page = history.html(trends, "History")
    assert page == history.html(trends, "History")
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "2026-01-16" in page
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


def test_words_from_outside_stay_words():
    """A hostile target name is neither markup nor a terminal escape."""
    trends = fallen(target=HOSTILE)
    page = history.html(trends, HOSTILE)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\x1b" not in text_of(trends)


def test_a_series_of_gaps_is_said_not_drawn():
    """All nights INVALID: the page says so, the table has no numbers."""
    trends = trends_of(rows([1.0, 1.0], gaps={0, 1}), ["output_tps"])
    assert "no night has a VALID run" in history.html(trends, "t")
    assert "0 +2x" in text_of(trends)
