"""What the system reports is told in one line that says what to do; files are whole or not there."""

import errno
from pathlib import Path

import pytest

from lfmesh.archive import files, places
from lfmesh.errors import StoreUnavailable


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "cannot write data: the disk is full; make room on it"),
        (errno.EDQUOT, "cannot write data: the disk is full; make room on it"),
        (errno.EROFS, "cannot use data: Read-only file system; check its folder and permissions"),
        (errno.EIO, "cannot use data: Input/output error"),
    ],
)
def test_faults_are_explained(number: int, told: str) -> None:
    fault = OSError(number, None)
    fault.strerror = {errno.EROFS: "Read-only file system", errno.EIO: "Input/output error"}.get(number, "")
    with pytest.raises(StoreUnavailable) as caught, files.explained(Path("data")):
        raise fault
    assert str(caught.value) == told
    assert caught.value.__cause__ is fault


def test_the_file_that_was_meant_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=f"cannot use {tmp_path}/none: No such file"), files.explained(tmp_path):
        (tmp_path / "none").read_bytes()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for body in (b"one", b"other" * 100_000):
        files.replace_whole(tmp_path / "file", body)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == body


def test_a_file_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "file.tmp").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace_whole(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.parametrize("instance", ["../x", "..", ".", "", "a/b", "snapshotter-0"])
def test_an_instance_s_folder_is_one_below_the_data(instance: str) -> None:
    data = Path("/data")
    folder = places.journal_folder(data, instance)
    assert folder.resolve().parent == data / "journal"
    assert folder.name == (instance if instance == "snapshotter-0" else folder.name)
    assert {places.spool_folder(data, instance).name, places.checkpoint_folder(data, instance).name} == {folder.name}


def test_the_folders_that_are_there_are_found(tmp_path: Path) -> None:
    assert places.journal_folders(tmp_path) == places.spool_folders(tmp_path) == []
    for instance in ("snapshotter-1", "snapshotter-0"):
        places.journal_folder(tmp_path, instance).mkdir(parents=True)
        places.spool_folder(tmp_path, instance).mkdir(parents=True)
    (tmp_path / "spool" / "file").touch()
    assert [path.name for path in places.journal_folders(tmp_path)] == ["snapshotter-0", "snapshotter-1"]
    assert [path.name for path in places.spool_folders(tmp_path)] == ["snapshotter-0", "snapshotter-1"]
    assert places.objects_folder(tmp_path) == tmp_path / "objects"
