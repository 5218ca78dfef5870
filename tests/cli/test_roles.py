"""Roles run one by one: the second of a pair has a name of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

DEADLINE_S = 30.0


@contextmanager
def role(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[None]:
    """A role as a process; ended by SIGTERM, in order."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lfmesh.cli", *arguments], env=environment, stdout=output, stderr=output
        )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def roles_of(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What `lfmesh top` says, by instance."""
    done = subprocess.run(
        [sys.executable, "-m", "lfmesh.cli", "top", "--json", "--registry", environment["LFMESH_TOP_REGISTRY"]],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    return {row["instance"]: row for row in json.loads(done.stdout)["roles"]} if done.returncode == 0 else {}


def test_the_second_of_a_pair_is_run_with_a_name_and_line_of_its_own(tmp_path: Path) -> None:
    registry = f"ipc://{tmp_path}/r"
    environment = {
        **os.environ,
        "LFMESH_TOP_REGISTRY": registry,
        "LFMESH_REGISTRY__ENDPOINTS": json.dumps([registry]),
        "LFMESH_REGISTRY__BIND_REQUESTS": registry,
        "LFMESH_REGISTRY__BIND_CHANGES": f"ipc://{tmp_path}/c",
        "LFMESH_MESH__DATA_DIR": str(tmp_path),
        "LFMESH_VENUE__WS_URL": "ws://127.0.0.1:1",
        "LFMESH_VENUE__REST_URL": "http://127.0.0.1:1",
    }
    commands = (
        ("registry", "--instance", "registry-7"),
        ("ingestor", "--instance", "ingestor-B", "--line", "B"),
        ("normalizer", "--shard", "0"),
        ("normalizer", "--shard", "0", "--instance", "normalizer-0-b"),
        ("snapshotter", "--shard", "0", "--instance", "snapshotter-{shard}-b"),
        ("gateway", "--instance", "gateway-1", "--port", "0"),
    )
    wanted = {"registry-7", "ingestor-B", "normalizer-0", "normalizer-0-b", "snapshotter-0-b", "gateway-1"}
    with ExitStack() as stack:
        for command in commands:
            stack.enter_context(role(environment, tmp_path / "log", *command))
        ends = time.monotonic() + DEADLINE_S
        while not wanted <= set(found := roles_of(environment)):
            assert time.monotonic() < ends, (found, (tmp_path / "log").read_text())
        assert set(found) == wanted
        assert found["ingestor-B"]["line"] == "B"
        assert {row["shard"] for row in found.values() if row["role"] == "normalizer"} == {0}
