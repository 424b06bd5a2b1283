"""A monitor's store: written by several at once, put together by day and hour, and what is done about a file that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.base.clock import NS
from harness.base.errors import StoreError
from harness.monitor.increase import usage
from harness.monitor.recent import Recent
from harness.monitor.watch import keep_days, last_rows
from harness.monitor.window import roll_up, window
from harness.store import hour_rows, readings
from harness.store.readings import DAY_NS, HOUR_NS
from harness.store.root import open_root
from tests.monitor.test_monitor_increase import T0, expected, row, scene, summed

LATER = T0 + 6 * HOUR_NS


@pytest.fixture(params=["disk", "memory"])
def root(request, tmp_path):
    """A store on this machine's disk, and one in object storage."""
    where = str(tmp_path / "monitor") if request.param == "disk" else f"memory://{tmp_path.name}/monitor"
    return open_root(where)


def flushed(root, rows, every_s: float = 600) -> None:
    """Rows as two monitors store them: a file a monitor and stretch of time."""
    groups: dict[tuple[str, int], list] = {}
    for one in rows:
        groups.setdefault((one.monitor, one.read_utc_ns // round(every_s * NS)), []).append(one)
    for some in groups.values():
        readings.write(root, some)


def keyed(usages):
    return {
        (u.server, u.model, u.tenant): (u.counters, u.restarts, round(u.covered_s, 6), round(u.gap_s, 6))
        for u in usages
    }


def test_rows_come_back_as_they_were_stored(root):
    """Every column, by time; of a window those inside it."""
    _, _, rows, _ = scene(3, replicas=2, restarts=4, missed=10)
    flushed(root, rows)
    back = readings.read(root, 0, LATER)
    key = lambda one: (one.read_utc_ns, one.server, one.tenant, one.monitor)  # noqa: E731
    assert sorted(back, key=key) == sorted(rows, key=key)
    assert back.warnings == ()
    inside = readings.read(root, T0 + 600 * NS, T0 + 900 * NS)
    assert {key(one) for one in inside} == {
        key(one) for one in rows if T0 + 600 * NS <= one.read_utc_ns < T0 + 900 * NS
    }


@pytest.mark.parametrize("seed", [5, 6])
def test_hours_and_days_add_up_to_what_the_rows_say(root, seed):
    """The store's own sums, by hours that end in the middle of everything, are those of all rows at once, and of the servers."""
    servers, watchers, rows, _ = scene(seed, replicas=4, restarts=20, missed=80)
    shift = HOUR_NS // 2  # the scene lies across the full hour
    rows = [
        replace(
            one, read_utc_ns=one.read_utc_ns + shift, started_utc_ns=one.started_utc_ns and one.started_utc_ns + shift
        )
        for one in rows
    ]
    flushed(root, rows)
    whole = usage(rows, T0, LATER, 15)
    asked = window(root, T0, LATER, 15).usages
    assert keyed(asked) == keyed(whole)
    assert roll_up(root, LATER, 15) == [T0 + i * HOUR_NS for i in range(5)]
    assert roll_up(root, LATER, 15) == []
    rolled = window(root, T0, LATER, 15).usages
    assert keyed(rolled) == keyed(whole)
    for server in servers:
        assert summed(rolled, server.name) == expected(
            server,
            [
                replace(
                    o, read_utc_ns=o.read_utc_ns - shift, started_utc_ns=o.started_utc_ns and o.started_utc_ns - shift
                )
                for o in rows
            ],
            watchers,
        )
    readings.compact(root, T0)
    hour_rows.compact_hours(root, T0)
    assert keyed(window(root, T0, LATER, 15).usages) == keyed(whole)
    part = T0 + 50 * 60 * NS, T0 + 80 * 60 * NS  # neither begins nor ends with an hour
    assert keyed(window(root, *part, 15).usages) == keyed(usage(rows, *part, 15))


def test_a_day_is_one_file_each_row_once_whatever_was_killed(root):
    """Merged files that a kill left beside their parts are rows twice: the next merge has each once, and no total changes."""
    _, _, rows, _ = scene(8, replicas=2, restarts=4, missed=0)
    flushed(root, rows)
    before = keyed(window(root, T0, LATER, 15).usages)
    flushed(root, rows[: len(rows) // 2])  # as if the parts had not been removed
    assert keyed(window(root, T0, LATER, 15).usages) == before
    assert readings.days_in_pieces(root, T0 + 2 * DAY_NS) == [T0 - T0 % DAY_NS]
    assert keep_days(root, T0 + 2 * DAY_NS, retention_days=30) == []
    assert len(root.urls("readings/day=*/*.parquet")) == 1
    assert len(readings.read(root, 0, LATER)) == len(rows)
    assert keyed(window(root, T0, LATER, 15).usages) == before


def test_a_day_whose_hours_are_all_there_has_its_sums(root):
    """A day by its total, by its hours and by its rows is the same."""
    day = T0 - T0 % DAY_NS + DAY_NS
    rows = [replace(row(0, float(i * 7)), read_utc_ns=day + i * 1800 * NS) for i in range(-2, 52)]
    flushed(root, rows, every_s=7200)
    asked = day, day + DAY_NS + 3600 * NS
    before = keyed(window(root, *asked, 15).usages)
    roll_up(root, day + 26 * HOUR_NS, 15, most_hours=60)
    keep_days(root, day + 2 * DAY_NS, retention_days=30)
    assert hour_rows.days_there(root, *asked) == {day}
    assert keyed(window(root, *asked, 15).usages) == before
    assert before["a:1", "m", ""][0]["output_tokens"] == 49 * 7.0 + 7.0


def test_days_beyond_the_retention_go(root):
    """Whole days, of readings, hours and sums, and no other."""
    readings.write(root, [row(0, 1.0), row(3 * 86_400, 2.0)])
    readings.retain(root, 2, T0 + 4 * DAY_NS)
    assert [one.output_tokens for one in readings.read(root, 0, T0 + 9 * DAY_NS)] == [2.0]


def test_a_file_that_cannot_be_read_is_named_and_the_others_count(tmp_path):
    """Damaged rows, a damaged hour: each is told by name; the hour is made again of its rows."""
    root = open_root(tmp_path)
    readings.write(root, [row(0, 1.0), row(60, 3.0)])
    (damaged,) = readings.write(root, [row(120, 9.0)])
    readings.write(root, [row(180, 10.0)])
    Path(damaged).write_bytes(Path(damaged).read_bytes()[:200])
    found = window(root, T0, T0 + 600 * NS, 15)
    assert found.usages[0].counters["output_tokens"] == 9.0
    assert len(found.warnings) == 1
    assert damaged in found.warnings[0]
    assert any(damaged in said for said in readings.compact(root, T0))
    assert Path(damaged).exists(), "it is left where it is"
    assert any(damaged in said for said in Recent(root, T0 + 600 * NS, 15).warnings)
    roll_up(root, LATER, 15)
    hour = next(iter(tmp_path.glob("hours/*/*.parquet")))
    hour.write_bytes(b"PAR1")
    again = window(root, T0, T0 + HOUR_NS, 15)
    assert again.usages[0].counters["output_tokens"] == 9.0
    assert any(str(hour) in said for said in again.warnings)


def test_a_monitor_goes_on_where_it_stopped(root):
    """Its own last rows, also those that only the snapshot before the hour has."""
    rows = [row(60, 5.0), row(120, 6.0, server="b:1", incarnation=2), row(60, 7.0, monitor="other")]
    readings.write(root, rows)
    roll_up(root, LATER, 15)
    readings.write(root, [replace(row(0, 9.0), read_utc_ns=LATER)])
    found = last_rows(root, "m", LATER + 60 * NS)
    assert {(one.server, one.incarnation, one.output_tokens) for one in found} >= {("a:1", 0, 9.0), ("b:1", 2, 6.0)}
    assert {one.monitor for one in found} == {"m"}


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    """A file where the folder should be."""
    (tmp_path / "monitor").write_text("")
    with pytest.raises(StoreError, match="cannot be read or written"):
        readings.write(open_root(tmp_path / "monitor"), [row(0, 1.0)])
