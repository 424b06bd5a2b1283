"""Property tests here are deterministic and have no deadline: the machine may be busy."""

from __future__ import annotations

import pandas as pd  # noqa: F401 - `harness monitor` keeps it out of a process of its own, not out of this one
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")
