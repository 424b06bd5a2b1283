"""The list of mutants that may live is of the code as it is."""

from __future__ import annotations

import tomllib

from tests.mutants.copies import ROOT
from tests.mutants.run import MAY_LIVE


def test_every_line_that_it_names_is_there():
    entries = tomllib.loads((ROOT / MAY_LIVE).read_text())["mutant"]
    assert len(entries) > 50
    for entry in entries:
        there = (ROOT / entry["path"]).read_text().splitlines()
        changed = [line[1:] for line in entry["diff"].splitlines() if line.startswith("-")]
        assert changed
        assert set(changed) <= set(there), (entry["path"], entry["scope"])
