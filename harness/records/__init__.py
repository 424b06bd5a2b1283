"""Every value that crosses a stage boundary. Standard library only; frozen and slotted.

A field made with `col` is a stored column: its unit and meaning travel into the Parquet schema
(`store/schema.py`) and into `results/README.md`, so these files are the only place where a column is described.
`None` means "not observed"; it is never 0.

A module of this folder is read when one of its names is first asked for: each start of a load-generator worker would otherwise make
dozens of classes that only pages need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.records.column import *
    from harness.records.hosted import *
    from harness.records.money import *
    from harness.records.monitor import *
    from harness.records.plan import *
    from harness.records.promise import *
    from harness.records.results import *
    from harness.records.run import *
    from harness.records.telemetry import *
else:

    def __getattr__(name: str) -> Any:
        for module in ("plan", "run", "telemetry", "hosted", "promise", "column", "money", "results", "monitor"):
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                return globals().setdefault(name, getattr(found, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
