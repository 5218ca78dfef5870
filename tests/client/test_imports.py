"""What importing the client library brings with it."""

import subprocess
import sys

HEAVY = {"zmq", "pydantic", "pydantic_core", "pydantic_settings", "rich", "click", "structlog", "prometheus_client"}


def test_importing_and_typing_the_client_library_costs_little() -> None:
    program = "import sys, lfmesh.client, lfmesh.client.sync; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & HEAVY == set()
    assert "websockets" not in loaded  # only a connection needs it


def test_everything_public_is_there() -> None:
    import lfmesh.client

    for name in lfmesh.client.__all__:
        assert getattr(lfmesh.client, name).__doc__, name
