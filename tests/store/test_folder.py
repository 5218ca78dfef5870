"""What is of the folder store alone: files, permissions, file systems."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lfmesh.errors import StoreMisconfigured, StoreUnavailable
from lfmesh.store.folder import FolderObjectStore

FULL = """
import resource, signal, sys
from pathlib import Path
from lfmesh.errors import StoreUnavailable
from lfmesh.store.folder import FolderObjectStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = FolderObjectStore(Path(sys.argv[1]))
try:
    store.put("a/b", bytes(5000))
except StoreUnavailable as error:
    print(error)
print([stored.key for stored in store.list()], list((Path(sys.argv[1]) / ".incoming").iterdir()))
"""


def test_a_key_is_a_path(tmp_path: Path) -> None:
    store = FolderObjectStore(tmp_path / "objects")
    store.put("tape/venue=v/one.ndjson.zst", b"body")
    path = tmp_path / "objects" / "tape" / "venue=v" / "one.ndjson.zst"
    assert path.read_bytes() == b"body"
    assert path.stat().st_nlink == 1
    assert list((tmp_path / "objects" / ".incoming").iterdir()) == []


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store = FolderObjectStore(tmp_path / "objects")
    assert list(store.list()) == []
    assert list(store.folders("")) == []
    assert store.delete(["a/b"]) == 1
    assert not (tmp_path / "objects").exists()


def test_create_tells_whether_it_made_the_folder(tmp_path: Path) -> None:
    store = FolderObjectStore(tmp_path / "a" / "objects")
    assert store.create() == f"made the folder {tmp_path / 'a' / 'objects'}"
    assert store.create() is None
    store.check()


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"cannot use {tmp_path}: File too large", "[] []"]


def test_an_object_is_no_folder_and_a_folder_no_object(tmp_path: Path) -> None:
    store = FolderObjectStore(tmp_path)
    store.put("a/b", b"")
    with pytest.raises(ValueError, match="is a folder of objects"):
        store.put("a", b"")
    with pytest.raises(ValueError, match="is an object"):
        store.put("a/b/c", b"")
    assert [stored.key for stored in store.list()] == ["a/b"]
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("")
    with pytest.raises(StoreMisconfigured, match="a file is in the place of a folder"):
        FolderObjectStore(tmp_path / "objects").check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir(mode=0o500)
    with pytest.raises(StoreMisconfigured, match="check its owner and permissions"):
        FolderObjectStore(tmp_path / "objects").check()


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (errno.ENOSPC, StoreUnavailable, "the disk is full"),
        (errno.EDQUOT, StoreUnavailable, "the disk is full"),
        (errno.EACCES, StoreMisconfigured, "check its owner and permissions"),
        (errno.EROFS, StoreMisconfigured, "Read-only file system"),
        (errno.EIO, StoreUnavailable, "Input/output error"),
    ],
)
def test_what_the_system_reports_is_told_in_a_line(
    tmp_path: Path, code: int, kind: type[StoreUnavailable], text: str
) -> None:
    fault = FolderObjectStore(tmp_path)._fault(OSError(code, os.strerror(code), "/some/file"))
    assert type(fault) is kind
    assert "/some/file" in str(fault)
    assert text in str(fault)


def test_a_file_that_is_not_ours_is_not_swept_away(tmp_path: Path) -> None:
    store = FolderObjectStore(tmp_path)
    store.create()
    (tmp_path / ".incoming" / "folder").mkdir()
    for name in ("young", "old"):
        (tmp_path / ".incoming" / name).write_text("half")
    os.utime(tmp_path / ".incoming" / "old", (0, 0))
    store.check()
    assert sorted(path.name for path in (tmp_path / ".incoming").iterdir()) == ["folder", "young"]


def test_a_file_system_without_links_has_immutable_objects_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    store = FolderObjectStore(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: store.put("a/b", bytes([number]) * 100), range(8)))
    assert won.count(True) == 1
    assert store.get("a/b") == bytes([won.index(True)]) * 100
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_source_that_is_not_there_is_the_callers_trouble(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FolderObjectStore(tmp_path).put("a/b", tmp_path / "nothing")
