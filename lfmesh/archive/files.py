"""Files that survive a crash: what is written whole or not at all, folders made durable, one owner a folder.

An `OSError` becomes StoreUnavailable with one line that says what to do.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lfmesh.errors import StoreUnavailable

_LOCK = ".lock"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system reports about `path` or something in it, as StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(_explanation(path, error)) from error


def _explanation(path: Path, error: OSError) -> str:
    where = error.filename or path
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"cannot write {path}: the disk is full; make room on it"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"cannot use {where}: {error.strerror}; check its folder and permissions"
        case _:
            return f"cannot use {where}: {error.strerror or error}"


def lock(folder: Path) -> int:
    """Make `folder` where it is missing and keep every other process, and every other owner in this one, out of it.

    Returns the descriptor that holds the lock: it ends when that is closed, or with the process. StoreUnavailable if
    somebody else has it. Readers need no lock.
    """
    path = folder / _LOCK
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with explained(folder):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
    except StoreUnavailable as error:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        raise StoreUnavailable(
            f"{folder} is in use by another process (pid {holder}): give each instance its own name, or end that one"
        ) from error
    return descriptor


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power. OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, body: bytes) -> None:
    """A file with these bytes, on the disk itself; its folder is not synced. OSError leaves nothing behind."""
    try:
        with path.open("wb", buffering=0) as file:
            view = memoryview(body)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # the first error is the one to tell
            path.unlink(missing_ok=True)
        raise


def replace_whole(path: Path, body: bytes) -> None:
    """Put these bytes in the place of what the file held, at once and durably. OSError leaves the old ones."""
    new = path.with_name(path.name + ".tmp")
    write_whole(new, body)
    new.replace(path)
    sync_folder(path.parent)
