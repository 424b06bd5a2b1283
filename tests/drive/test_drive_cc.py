"""The compiled reader's file in the cache: whole or made again, this user's alone, or else the reader in Python and a line that says so."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from harness.base.errors import HarnessError
from harness.base.files import cache_dir
from harness.measure.drive import cc, reader

OTHER = 12345  # a user who is nobody here


@pytest.fixture(autouse=True)
def _compiler(tmp_path, monkeypatch):
    """A cache of its own, where there is a compiler."""
    try:
        cc.compiler()
    except HarnessError:
        pytest.skip("no compiler here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_READER", raising=False)
    reader._say_once.cache_clear()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def name_of(path: str | None) -> str:
    return reader.make(path, tls=False).name


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_library_that_was_cut_short_is_made_again(share):
    """Mapped, it would kill its worker with SIGBUS: it is found before, and replaced."""
    path = Path(reader.library())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert name_of(str(path)) == "reader in Python"  # for a worker that was told of it before
    assert reader.library() == str(path)
    assert cc.is_whole(path)
    assert name_of(str(path)) == "compiled reader"


def test_a_library_in_which_a_bit_flipped_is_made_again():
    """The digest is of every byte."""
    path = Path(reader.library())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert name_of(str(path)) == "reader in Python"
    assert name_of(reader.library()) == "compiled reader"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_means_python(monkeypatch, capsys, number):
    """One line says why, once, and no error."""

    def refuse(*_):
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(cc, "whole_file", refuse)
    assert reader.library() is None
    assert reader.library() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the reader runs in Python: ")
    assert os.strerror(number) in line


def test_no_umask_opens_the_cache_to_others():
    """Directories 700 and the library 600 under umask 0; a directory that was open is closed."""
    before = os.umask(0)
    try:
        path = Path(reader.library())
        assert [mode(p) for p in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
        path.parent.chmod(0o777)
        assert mode(cache_dir("reader")) == 0o755
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
def test_another_users_code_is_not_loaded(capsys):
    """A library that belongs to somebody else is replaced; in a directory of somebody else's nothing is made or loaded."""
    path = Path(reader.library())
    os.chown(path, OTHER, OTHER)
    assert not cc.is_whole(path)
    assert reader.library() == str(path)
    assert path.stat().st_uid == 0
    os.chown(path.parent, OTHER, OTHER)
    assert reader.library() is None
    assert "12345" in capsys.readouterr().err


def test_a_library_that_others_may_write_is_made_again():
    """Mode 666: what stands in it may be anybody's."""
    path = Path(reader.library())
    path.chmod(0o666)
    assert reader.library() == str(path)
    assert mode(path) == 0o600
