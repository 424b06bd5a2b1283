"""Boxes of each kind, through the C library under NVML's name and the real binding."""

from __future__ import annotations

from tests.observe.conftest import fake_nvml_dir, with_nvml

__all__ = ["fake_nvml_dir", "with_nvml"]
