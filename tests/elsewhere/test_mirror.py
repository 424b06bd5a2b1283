"""The mirror of a store on this machine: what is fetched, what is kept, and that no name leads out of it."""

from __future__ import annotations

import os

import fsspec
import pytest

from harness.base.errors import ConfigError
from harness.store import root as roots
from harness.store.elsewhere import RECORD, fetch_runs, is_url, open_mirror, read_record
from harness.store.root import open_root
from harness.store.upload import Upload


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store in memory, its URL, with a mirror in the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    yield memory, f"memory://{tmp_path.name}"
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def test_a_file_is_fetched_once_and_again_when_it_changed(store):
    """The record has each file's version; a file made or changed here is never replaced."""
    memory, url = store
    memory.pipe({f"{url}/r/a.json": b"1", f"{url}/r/b.json": b"2"})
    mirror = open_mirror(url)
    listed = lambda: mirror.root.files(f"{mirror.root.path}/r")  # noqa: E731
    a, b = mirror.fetch(listed())
    assert (a.read_bytes(), b.read_bytes(), sorted(read_record(a.parent))) == (b"1", b"2", ["a.json", "b.json"])
    memory.pipe(f"{url}/r/a.json", b"11")
    b.write_bytes(b"mine")
    (a.parent / "c.json").write_bytes(b"mine too")
    memory.pipe({f"{url}/r/b.json": b"theirs", f"{url}/r/c.json": b"theirs"})
    mirror.fetch(listed())
    assert (a.read_bytes(), b.read_bytes(), (a.parent / "c.json").read_bytes()) == (b"11", b"mine", b"mine too")


def test_what_has_gone_there_goes_here_and_nothing_else(store):
    """Of files that were fetched; one that was made here stays."""
    memory, url = store
    memory.pipe({f"{url}/history/m/a.parquet": b"1", f"{url}/history/m/b.parquet": b"2"})
    mirror = open_mirror(url)
    a, _ = mirror.exactly("history", ".parquet")
    (a.parent / "own.parquet").write_bytes(b"3")
    memory.rm_file(f"{url}/history/m/a.parquet")
    assert [path.name for path in mirror.exactly("history", ".parquet")] == ["b.parquet"]
    assert sorted(path.name for path in a.parent.iterdir()) == [RECORD, "b.parquet", "own.parquet"]


@pytest.mark.parametrize(
    "name", ["../x.json", "r/../../x.json", "r//x.json", "./x.json", "..", "a\\..\\x.json", "a\0.json"]
)
def test_no_name_of_the_store_leads_out_of_the_mirror(store, name):
    """Keys of object storage are any text."""
    mirror = open_mirror(store[1])
    assert mirror.place(f"{mirror.root.path}/{name}") is None


def test_beyond_its_size_the_oldest_goes_if_the_store_has_it(store, monkeypatch):
    """Of three runs the one read longest ago; not what is read now, nor what was made here; what went is fetched again."""
    memory, url = store
    for run in "abc":
        memory.pipe({f"{url}/e/{run}/manifest.json": b"{}", f"{url}/e/{run}/requests.parquet": bytes(1000)})
    mirror = open_mirror(url)
    runs = {run: mirror.root.files(f"{mirror.root.path}/e/{run}") for run in "abc"}
    for number, run in enumerate("bac"):
        fetch_runs(mirror, [runs[run]])
        os.utime(mirror.here / "e" / run / RECORD, ns=(number, number))
    (mirror.here / "e" / "b" / "own.parquet").write_bytes(bytes(5000))
    monkeypatch.setenv("HARNESS_CACHE_GIB", str(2100 / 2**30))
    fetch_runs(mirror, [runs["c"]])
    there = lambda: sorted(str(p.relative_to(mirror.here / "e")) for p in mirror.here.rglob("*.*") if p.name != RECORD)  # noqa: E731
    kept = ["a/manifest.json", "a/requests.parquet", "b/own.parquet", "c/manifest.json", "c/requests.parquet"]
    assert there() == kept
    fetch_runs(mirror, [runs["b"]])
    assert there() == [
        "b/manifest.json",
        "b/own.parquet",
        "b/requests.parquet",
        "c/manifest.json",
        "c/requests.parquet",
    ]


def test_what_is_a_url():
    """A scheme and two slashes; a path may hold a colon."""
    assert [is_url(w) for w in ("s3://b/x", "gs://b", "file:///x", "results", "/a:/b", "C:/x", "a//b")] == [
        True
    ] * 3 + [False] * 4


def test_a_store_without_conditional_puts_is_said(store, tmp_path, monkeypatch):
    """Then nothing but the name tells two campaigns of the same instant apart."""
    said: list[str] = []
    upload = Upload(store[1], tmp_path, said.append)
    monkeypatch.setattr(type(upload.root.fs), "pipe_file", lambda fs, path, value, **_: fs.store.__setitem__(fs._strip_protocol(path), type(next(iter(fs.store.values()), _file(fs)))(fs, path, value)))  # fmt: skip
    upload.probe()
    assert not upload.exclusive
    assert "no conditional put" in said[0]


def _file(fs):
    from fsspec.implementations.memory import MemoryFile

    return MemoryFile(fs, "/x", b"")


def test_a_filesystem_that_is_not_installed_names_its_package(monkeypatch):
    """s3fs is an extra."""

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(roots.fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"vllm-cost-harness\[s3\]"):
        open_root("s3://bucket/x")
