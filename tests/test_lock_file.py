"""Lock files and the directory they stand in: what another user may have put there is refused, and not written to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from harness.base import files
from harness.base.errors import StoreError
from harness.base.files import lock_dir, open_lock, try_lock
from harness.measure import recover
from harness.measure.campaign import lock
from harness.measure.drive import spool

OTHER = 12345  # a user who is nobody here
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


def _hold_machine(folder: Path) -> None:
    with lock.hold(["machine"], "mine", wait=False, say=print):
        pass


def _hold_campaign(folder: Path) -> None:
    with lock.hold_file(folder / "machine.lock", "mine"):
        pass


def _recover(folder: Path) -> None:
    with recover.alone(folder):
        pass


USERS = {
    "machine.lock": [_hold_machine, _hold_campaign],
    "spool-0.lock": [lambda folder: spool.Writer(folder, 0), lambda folder: spool.is_written(folder, 0)],
    "recover.lock": [_recover],
}


@pytest.mark.parametrize(("name", "use"), [(name, use) for name, uses in USERS.items() for use in uses])
def test_a_lock_that_is_a_link_is_refused(tmp_path, monkeypatch, name, use):
    """Every user of a lock file: what the link points to keeps its bytes, and the error names the lock."""
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(StoreError, match=name):
        use(tmp_path)
    assert victim.read_text() == "precious"


def test_a_link_to_nothing_makes_no_file(tmp_path):
    """A dangling link is refused too."""
    (tmp_path / "x.lock").symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match="it is a link"):
        open_lock(tmp_path / "x.lock")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["fifo", "directory", "second name"])
def test_a_lock_is_a_regular_file_with_one_name(tmp_path, kind):
    """Anything else is refused at once."""
    path = tmp_path / "x.lock"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        (tmp_path / "victim").write_text("precious")
        os.link(tmp_path / "victim", path)
    with pytest.raises(StoreError):
        open_lock(path)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o1777])
def test_another_users_lock_counts_only_where_users_share(tmp_path, mode):
    """In our own directory it is refused; in a sticky one it is a lock like any other, open to all whoever made it."""
    tmp_path.chmod(mode)
    (tmp_path / "x.lock").touch(0o666)
    os.chown(tmp_path / "x.lock", OTHER, OTHER)
    if mode == 0o700:
        with pytest.raises(StoreError, match="belongs to user 12345"):
            open_lock(tmp_path / "x.lock")
        return
    one, two = open_lock(tmp_path / "x.lock"), open_lock(tmp_path / "x.lock")
    assert (try_lock(one), try_lock(two)) == (True, False)
    mine = open_lock(tmp_path / "y.lock")
    assert stat.S_IMODE(os.fstat(mine).st_mode) == 0o666
    for descriptor in (one, two, mine):
        os.close(descriptor)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Where this user's own lock directory would be made, with an umask that hides nothing."""
    monkeypatch.delenv("HARNESS_LOCK_DIR", raising=False)
    monkeypatch.setattr(files, "_OWN", str(tmp_path / "locks-{uid}"))
    before = os.umask(0)
    yield tmp_path / f"locks-{os.geteuid()}"
    os.umask(before)


def test_by_default_each_user_has_a_private_directory(own):
    """Mode 700, files 600, whatever the umask is."""
    assert lock_dir() == own
    os.close(open_lock(own / "x.lock"))
    assert (stat.S_IMODE(own.stat().st_mode), stat.S_IMODE((own / "x.lock").stat().st_mode)) == (0o700, 0o600)
    assert str(os.geteuid()) in own.name


@pytest.mark.parametrize("made", ["link", "open to others", pytest.param("another user's", marks=as_root)])
def test_a_default_directory_that_somebody_else_prepared_is_refused(own, made):
    """A link, one that others may write, another user's: StoreError that names it and what to do."""
    if made == "link":
        (own.parent / "elsewhere").mkdir()
        own.symlink_to(own.parent / "elsewhere")
    else:
        own.mkdir(0o777 if made == "open to others" else 0o700)
    if made == "another user's":
        os.chown(own, OTHER, OTHER)
    with pytest.raises(StoreError, match="HARNESS_LOCK_DIR") as caught:
        lock_dir()
    assert str(own) in caught.value.value


def test_a_directory_that_all_may_rename_in_is_no_place_for_locks(tmp_path, monkeypatch):
    """HARNESS_LOCK_DIR with mode 777 is refused, with 1777 it is taken."""
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="1777"):
        lock_dir()
    tmp_path.chmod(0o1777)
    assert lock_dir() == tmp_path
