"""The object store that needs nothing installed: a local folder, a file an object, its key the path in it.

An object is written to a file in `.incoming/`, synced to disk, and then linked to its key: that is one step, which
fails if the key is taken, and of which a crash leaves either all or nothing. What a killed writer leaves there
is cleared away by the next `check`; a writer that lives holds a lock on its file.

A key cannot at once be an object and the folder of others (`a` and `a/b`); S3 could do that, the archive never does.
"""

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lfmesh.errors import LfmeshError, ObjectMissing, StoreMisconfigured, StoreUnavailable
from lfmesh.ports import StoredObject
from lfmesh.store.bodies import opened
from lfmesh.store.keys import can_begin, checked, checked_folder

_INCOMING = ".incoming"
_STALE_S = 60.0
"""A file in `.incoming/` that is older, and not locked, has no writer any more."""
_COPY_BYTES = 1024 * 1024
_ROUNDS = 100
"""So often a folder may be deleted from under a writer that has just made it."""
_WITHOUT_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FolderObjectStore:
    """`lfmesh.ports.ObjectStore` in a folder, which is made when something is first put there, or by `check`.

    Any number of threads and processes of this machine may use one folder at once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING

    def create(self) -> str | None:
        """Make the folder; a line that says so, None if it was there."""
        with self._explained():
            made = not self._root.is_dir()
            self._incoming.mkdir(parents=True, exist_ok=True)
            return f"made the folder {self._root}" if made else None

    def check(self) -> None:
        """Make the folder, see that it can be written, and clear away what killed writers have left."""
        with self._explained():
            self._incoming.mkdir(parents=True, exist_ok=True)
            with self._new_file():
                pass
            self._sweep()

    def put(self, key: str, body: bytes | Path) -> bool:
        """Store an object on the disk itself; False if the key is taken. ValueError for a key that may not be."""
        path = self._root / checked(key)
        with opened(body) as (source, _), self._explained():
            if path.is_file():
                return False
            self._incoming.mkdir(parents=True, exist_ok=True)
            with self._new_file() as (descriptor, name):
                with os.fdopen(descriptor, "wb", closefd=False) as target:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
                os.fsync(descriptor)
                return self._publish(name, path)

    def get(self, key: str) -> bytes:
        """An object's bytes; ObjectMissing."""
        path = self._root / checked(key)
        with self._explained():
            try:
                return path.read_bytes()
            except _NOT_THERE as error:
                raise ObjectMissing(f"{self._root} has no object {key}") from error

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Objects in order of their keys; what comes or goes meanwhile may be listed or not."""
        if not can_begin(prefix):
            return
        with self._explained():
            yield from self._walk(self._root, "", prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        """The distinct `prefix…/` one level below, in order; only those that hold an object."""
        checked_folder(prefix)
        with self._explained():
            inner = (name for name, entry in _entries(self._root / prefix, not prefix) if name.endswith("/"))
            return [prefix + name for name in inner if next(self._walk(self._root / prefix / name, "", "", ""), None)]

    def delete(self, keys: Sequence[str]) -> int:
        """Delete objects, and the folders that this leaves empty."""
        paths = [self._root / checked(key) for key in keys]
        with self._explained():
            for path in paths:
                with suppress(*_NOT_THERE):
                    path.unlink()
                self._prune(path.parent)
        return len(paths)

    def close(self) -> None:
        """Nothing is held."""

    # Inside -----------------------------------------------------------------------------------------------------

    def _publish(self, name: Path, path: Path) -> bool:
        """Give a written file its key; False if that is taken."""
        for _ in range(_ROUNDS):
            self._make_folder(path.parent)
            try:
                _link(name, path, self._incoming)
            except FileExistsError:
                if path.is_dir():
                    raise ValueError(f"{path} is a folder of objects and can't be one itself") from None
                return False
            except FileNotFoundError:
                continue  # `delete` found the folder empty and took it away
            _sync(path.parent)
            return True
        raise StoreUnavailable(f"cannot write {path}: its folder is deleted time and again")

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, so that a loss of power doesn't lose their names."""
        missing = []
        while not folder.is_dir():
            if folder.exists() and not folder.is_dir():  # another writer may have made it just now
                raise ValueError(f"{folder} is an object and can't be a folder of others")
            missing.append(folder)
            folder = folder.parent
        for made in reversed(missing):
            with suppress(FileExistsError, FileNotFoundError):  # another writer, or `delete`: the caller tries again
                made.mkdir()
                _sync(made.parent)

    def _prune(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # not empty
                return
            folder = folder.parent

    def _walk(self, folder: Path, path: str, prefix: str, after: str) -> Iterator[StoredObject]:
        """Objects below `folder`, which has the key `path` (ending with a slash, or empty)."""
        for name, entry in _entries(folder, top=not path and folder == self._root):
            key = path + name
            if name.endswith("/"):
                fits = key.startswith(prefix) or prefix.startswith(key)
                if fits and (key > after or after.startswith(key)):
                    yield from self._walk(Path(entry), key, prefix, after)
            elif key > after and key.startswith(prefix):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found = entry.stat()
                    yield StoredObject(key, found.st_size, found.st_mtime_ns)

    @contextmanager
    def _new_file(self) -> Iterator[tuple[int, Path]]:
        """A new file in `.incoming/`, locked and gone at the end."""
        name = self._incoming / secrets.token_hex(16)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield descriptor, name
        finally:
            name.unlink(missing_ok=True)
            os.close(descriptor)

    def _sweep(self) -> None:
        oldest = time.time() - _STALE_S
        for entry in os.scandir(self._incoming):
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < oldest and _abandoned(entry.path):
                    Path(entry).unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> LfmeshError:
        where = error.filename or self._root
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return StoreUnavailable(f"cannot write {where}: the disk is full; make room on it")
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return StoreMisconfigured(f"cannot use {where}: {error.strerror}; check its owner and permissions")
            case errno.ENOTDIR | errno.EEXIST:
                return StoreMisconfigured(f"cannot use {where}: a file is in the place of a folder; move it away")
            case _:
                return StoreUnavailable(f"cannot use {where}: {error.strerror or error}")


def _entries(folder: Path, top: bool) -> list[tuple[str, os.DirEntry[str]]]:
    """What is in a folder, folders with a slash after their name, in the order of the keys below them."""
    try:
        with os.scandir(folder) as found:
            named = [(f"{entry.name}/" if entry.is_dir() else entry.name, entry) for entry in found]
    except (FileNotFoundError, NotADirectoryError):
        return []  # nothing was ever put there, or it is deleted meanwhile
    named.sort(key=lambda pair: os.fsencode(pair[0]))
    return [pair for pair in named if not (top and pair[0].startswith("."))]


def _link(name: Path, path: Path, incoming: Path) -> None:
    """`path` becomes another name of the file `name`, in one step; FileExistsError if it is taken."""
    try:
        os.link(name, path)
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        # A file system without hard links: renaming would replace what is there, so writers go one by one.
        lock = os.open(incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            name.rename(path)
        finally:
            os.close(lock)


def _sync(folder: Path) -> None:
    """Have a folder's names on the disk itself."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _abandoned(path: str) -> bool:
    """True if no writer holds its lock on the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
