"""`harness monitor` keeps pandas out of a process of its own, not out of this one."""

from __future__ import annotations

import pandas as pd  # noqa: F401
