"""Every value that crosses a stage boundary. Standard library only; frozen and slotted.

A field made with `col` is a stored column: its unit and meaning travel into the Parquet schema
(`store/schema.py`) and into `results/README.md`, so these files are the only place where a column is described.
`None` means "not observed"; it is never 0.
"""

from harness.records.column import *
from harness.records.hosted import *
from harness.records.money import *
from harness.records.monitor import *
from harness.records.plan import *
from harness.records.promise import *
from harness.records.results import *
from harness.records.run import *
from harness.records.telemetry import *
