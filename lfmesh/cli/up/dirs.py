"""The two folders of a mesh on one machine: its data, locked while it runs, and its sockets, gone when it ends."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from lfmesh.client import meshfile
from lfmesh.errors import LfmeshError

_LOCK = "up.lock"
_PREFIX = "lfmesh-"


def lock_data_dir(data_dir: Path) -> int:
    """Make the folder if need be, and lock it: the lock holds until every process that inherits it has ended.

    LfmeshError if it can't be used, or another `lfmesh up` uses it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LfmeshError(f"the data folder {data_dir} can't be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        whose = f" (pid {holder})" if holder else ""
        raise LfmeshError(
            f"the data folder {data_dir} is in use by another lfmesh up{whose}: end that one, or give --data-dir"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def make_runtime_dir(data_dir: Path) -> Path:
    """A new private folder for sockets, with a short path; what a killed mesh of this data folder left is removed."""
    left = meshfile.read(data_dir)
    if left is not None:
        remove_runtime_dir(Path(left.runtime_dir))
        meshfile.remove(data_dir)
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError as error:
        raise LfmeshError(f"no folder for sockets can be made in {tempfile.gettempdir()}: {error.strerror}") from error


def remove_runtime_dir(path: Path) -> None:
    """Remove a folder that `make_runtime_dir` made, and nothing else, whatever a damaged mesh.json says."""
    if path.name.startswith(_PREFIX) and path.parent == Path(tempfile.gettempdir()) and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def forget_states(path: Path) -> None:
    """Empty the folder of a simulated exchange's states (`plan.SIMULATED`); LfmeshError if that is impossible."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LfmeshError(
            f"the states of an earlier simulation in {path} can't be removed: {error.strerror}"
        ) from error
