"""`harness history` alone, as its own process, for the bench."""

from __future__ import annotations

from harness.cli.history import history_group

if __name__ == "__main__":
    history_group()
