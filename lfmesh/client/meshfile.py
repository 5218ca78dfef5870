"""`mesh.json`: where a mesh that `lfmesh up` started can be found, in its data folder while it runs.

`lfmesh watch`, `lfmesh top` and the load client read it, so that none of them needs to be told an address.
"""

import os
from pathlib import Path

import msgspec

NAME = "mesh.json"


class MeshFile(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """One running mesh. `pid` is its supervisor's; `pids` those of the roles, by instance.

    `runtime_dir` holds its sockets. `started_ns` is in ns since the Unix epoch. `simulator_url` is the base of the
    simulator's REST and control endpoints, None when the source is the venue itself. `gateway_urls` are those of all
    gateways, `gateway_url` and `http_url` are the first one's.
    """

    pid: int
    started_ns: int
    gateway_url: str
    http_url: str
    registry_endpoints: list[str]
    runtime_dir: str
    simulator_url: str | None = None
    gateway_urls: list[str] = []
    pids: dict[str, int] = {}


def write(data_dir: Path, mesh: MeshFile) -> None:
    """Replace the file, so that a reader sees the old one or the new one and nothing between."""
    path = data_dir / NAME
    draft = path.with_suffix(".json.new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(mesh), indent=2) + b"\n")
    draft.replace(path)


def remove(data_dir: Path) -> None:
    """Remove the file; it may be gone already."""
    (data_dir / NAME).unlink(missing_ok=True)


def read(data_dir: Path) -> MeshFile | None:
    """What the file says, of a mesh that runs or of one that was killed; None without a readable file."""
    try:
        return msgspec.json.decode((data_dir / NAME).read_bytes(), type=MeshFile)
    except (OSError, msgspec.DecodeError):
        return None


def find(data_dir: Path) -> MeshFile | None:
    """The mesh that runs on this machine with this data folder, if any."""
    mesh = read(data_dir)
    return mesh if mesh is not None and is_running(mesh.pid) else None


def is_running(pid: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
