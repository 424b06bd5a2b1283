"""A file is written whole or not at all, whoever writes it."""

from __future__ import annotations

import errno
import os

import pytest

from harness.base.files import whole_file, write_whole


def test_a_file_is_replaced_in_one_step(tmp_path):
    """Until the block ends the old content stands under the name, the new one under another that ends in .tmp; then the new alone."""
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
        assert part.suffix == ".tmp"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_of_a_write_that_breaks_off_nothing_stays(tmp_path, error):
    """The old content stands, nothing is beside it, and the error is the one that was raised."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_takes_no_name_that_is_taken(tmp_path):
    """The first to write it has it; the second is told, and leaves nothing."""
    path = tmp_path / "a.json"
    write_whole(path, "first", new=True)
    with pytest.raises(FileExistsError):
        write_whole(path, "second", new=True)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_the_error(tmp_path):
    """Not the removal of what was never written."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_whole(tmp_path / "file" / "a.json", "text")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a.json", "text")


@pytest.mark.parametrize("synced", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, synced):
    """Its content is forced out while the old one stands, then the folder with the new name; neither where nothing depends on it."""
    path, forced = tmp_path / "a.json", []
    path.write_text("old")
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        forced.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    write_whole(path, "new", synced=synced)
    assert [text for _, text in forced] == (["old", "new"] if synced else [])
    if synced:
        assert forced[0][0].startswith(f"{path}.")
        assert forced[1][0] == str(tmp_path)


def test_text_is_utf_8_and_bytes_are_as_they_are(tmp_path):
    """No line end is changed."""
    write_whole(tmp_path / "a", "é\r\n")
    write_whole(tmp_path / "b", b"\xff\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\n"
    assert (tmp_path / "b").read_bytes() == b"\xff\n"
