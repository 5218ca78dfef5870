"""Where `lfmesh top` asks."""

import os
from pathlib import Path

from lfmesh.cli.top import _moved, _registry
from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile


def write(home: Path, endpoint: str, pid: int) -> None:
    meshfile.write(home, MeshFile(pid, 1, "ws://127.0.0.1:1/ws", "http://127.0.0.1:1", [endpoint], "/tmp/none"))


def test_a_mesh_that_was_started_again_is_found_at_its_new_addresses(tmp_path: Path) -> None:
    write(tmp_path, "ipc:///tmp/first", os.getpid())
    first = _registry((), tmp_path, None)
    assert tuple(first.endpoints) == ("ipc:///tmp/first",)
    meshfile.remove(tmp_path)
    assert _moved(first, tmp_path) == first, "between two runs nothing else is asked"
    write(tmp_path, "ipc:///tmp/second", os.getpid())
    assert tuple(_moved(first, tmp_path).endpoints) == ("ipc:///tmp/second",)


def test_what_the_user_names_counts(tmp_path: Path) -> None:
    write(tmp_path, "ipc:///tmp/first", os.getpid())
    assert tuple(_registry(("tcp://127.0.0.1:7400",), tmp_path, None).endpoints) == ("tcp://127.0.0.1:7400",)
