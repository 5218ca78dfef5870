"""The data folder's lock, and the folder of sockets."""

import os
from pathlib import Path

import pytest

from lfmesh.cli.up.dirs import forget_states, lock_data_dir, make_runtime_dir, remove_runtime_dir
from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile
from lfmesh.errors import LfmeshError


def test_one_mesh_a_data_folder(tmp_path: Path) -> None:
    lock = lock_data_dir(tmp_path / "new" / "data")
    with pytest.raises(LfmeshError, match=rf"is in use by another lfmesh up \(pid {os.getpid()}\).*--data-dir"):
        lock_data_dir(tmp_path / "new" / "data")
    os.close(lock)
    os.close(lock_data_dir(tmp_path / "new" / "data"))


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LfmeshError, match="can't be used"):
        lock_data_dir(tmp_path / "file" / "data")


def mesh_at(runtime_dir: Path, pid: int = 1) -> MeshFile:
    return MeshFile(pid, 0, "ws://x/ws", "http://x", ["ipc://x"], str(runtime_dir))


def test_what_a_killed_mesh_left_is_removed(tmp_path: Path) -> None:
    left = make_runtime_dir(tmp_path)
    (left / "registry.requests").touch()
    assert left.stat().st_mode & 0o777 == 0o700
    meshfile.write(tmp_path, mesh_at(left))
    fresh = make_runtime_dir(tmp_path)
    assert fresh != left
    assert not left.exists()
    assert meshfile.read(tmp_path) is None
    remove_runtime_dir(fresh)
    assert not fresh.exists()


def test_nothing_but_our_own_folders_is_removed(tmp_path: Path) -> None:
    kept = tmp_path / "lfmesh-kept"
    kept.mkdir()
    meshfile.write(tmp_path, mesh_at(kept))
    remove_runtime_dir(make_runtime_dir(tmp_path))
    assert kept.exists()


def test_mesh_file_is_found_only_while_its_process_runs(tmp_path: Path) -> None:
    assert meshfile.find(tmp_path) is None
    mesh = mesh_at(tmp_path, os.getpid())
    meshfile.write(tmp_path, mesh)
    assert meshfile.find(tmp_path) == mesh
    meshfile.write(tmp_path, mesh_at(tmp_path, 2**22 + 1))
    assert meshfile.find(tmp_path) is None
    (tmp_path / meshfile.NAME).write_text("{")
    assert meshfile.read(tmp_path) is None
    meshfile.remove(tmp_path)
    meshfile.remove(tmp_path)


def test_states_of_a_simulation_are_forgotten_and_others_are_not(tmp_path: Path) -> None:
    kept, gone = tmp_path / "state-shard-0.sqlite", tmp_path / "simulated" / "state-shard-0.sqlite"
    gone.parent.mkdir()
    kept.touch()
    gone.touch()
    forget_states(gone.parent)
    forget_states(gone.parent)
    assert kept.exists()
    assert not gone.exists()
