"""Locks of their own, so that the tests disturb no campaign on this machine and none disturbs them."""

from __future__ import annotations

import pytest

from tests.fakes.golden_server import GoldenServer
from tests.observe.conftest import fake_nvml_dir, with_nvml

__all__ = ["fake_nvml_dir", "with_nvml"]


@pytest.fixture(autouse=True)
def _own_locks(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path_factory.mktemp("locks")))


@pytest.fixture(scope="session")
def golden():
    with GoldenServer(ttft_s=0.004, itl_s=0.001) as server:
        yield server
