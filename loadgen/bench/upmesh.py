"""A whole mesh as a user starts it, `lfmesh up` on the simulated exchange, for as long as it is measured."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile
from loadgen.bench.gateway import environment
from loadgen.bench.process import Program, listening


@contextmanager
def mesh(rate: int, products: int, shards: int = 1, **sections: dict[str, object]) -> Iterator[MeshFile]:
    """Start it on free ports with a folder of its own, some keys of its configuration changed; its gateway listens."""
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as name:
        folder = Path(name)
        command = [
            sys.executable, "-m", "lfmesh.cli", "up", "--gateway-port", "0", "--data-dir", name,
            "--rate", str(rate), "--products", str(products), "--shards", str(shards),
        ]  # fmt: skip
        with Program(command, environment(sections)) as process:
            process.until(lambda: meshfile.read(folder) is not None, "the mesh to start")
            found = meshfile.read(folder)
            assert found is not None
            process.until(lambda: listening(port_of(found)), "the gateway to listen")
            yield found


def port_of(mesh: MeshFile) -> int:
    """The gateway's port."""
    port = urlsplit(mesh.gateway_url).port
    assert port is not None
    return port
