"""Every figure of a window as CSV: one row a figure, with its formula."""

from __future__ import annotations

import csv
import io
import math

from harness.base.clock import utc_of
from harness.base.documents import csv_cell
from harness.records import MonitorView

COLUMNS = ("from_utc", "to_utc", "kind", "name", "figure", "value", "unit", "formula")


def text(view: MonitorView) -> str:
    """The file, header in; a value that is not known is an empty cell, one without an end `inf`."""
    ends = [utc_of(ns).strftime("%Y-%m-%dT%H:%M:%SZ") for ns in (view.from_ns, view.to_ns)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in view.groups:
        for line in group.lines:
            value = "" if line.value is None else "inf" if math.isinf(line.value) else repr(line.value)
            cells = (*ends, group.kind, group.name, line.name, value, line.unit, line.formula)
            writer.writerow([csv_cell(cell) for cell in cells])
    return out.getvalue()
