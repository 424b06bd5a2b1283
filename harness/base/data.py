"""Where the data files of the harness are: `workloads/` and `configs/`."""

from __future__ import annotations

from pathlib import Path

_HARNESS = Path(__file__).resolve().parents[1]


def data_dir(name: str) -> Path:
    """`workloads` or `configs`: inside the installed package, else beside it in a checkout."""
    packaged = _HARNESS / "_data" / name
    return packaged if packaged.is_dir() else _HARNESS.parent / name
