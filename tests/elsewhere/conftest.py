"""One S3 server for these tests, and a cache of their own."""

from __future__ import annotations

import importlib.util

import pytest

from tests.elsewhere.s3_server import S3Server, s3_server
from tests.fakes.golden_server import GoldenServer


@pytest.fixture(scope="session")
def s3_of_session():
    missing = [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: make cluster")
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_of_session: S3Server, tmp_path, monkeypatch):
    """The server, its client's variables set, with an empty cache and locks of the test's own."""
    for name, value in s3_of_session.env.items():
        monkeypatch.setenv(name, value)
    own_places(tmp_path, monkeypatch)
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # a client keeps the credentials of the test that made it, or that there were none
    return s3_of_session


def own_places(tmp_path, monkeypatch) -> None:
    """A cache and locks in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))


@pytest.fixture
def bucket(s3, request):
    """A bucket of the test's own; its name."""
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[:60].lower()
    s3.make(name)
    return name


@pytest.fixture(scope="session")
def golden():
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        yield server
