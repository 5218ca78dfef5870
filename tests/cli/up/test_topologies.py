"""`lfmesh up` with two lines, pairs, several gateways and registries, as a user runs it."""

import os
import signal
import socket
import sys

import pytest

from lfmesh.client.meshfile import MeshFile
from tests.cli.up.mesh import Up, an_up, first_updates, json_lines, run_lfmesh, until

PAIRS = (
    "registry-0", "registry-1", "simulator", "ingestor-A", "ingestor-B", "normalizer-0", "normalizer-0-b",
    "snapshotter-0", "snapshotter-0-b", "gateway-0", "gateway-1",
)  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


def test_pairs_lines_and_gateways_come_up_are_started_again_and_end_in_order() -> None:
    with an_up() as up:
        up.start("--shards", "1", "--products", "3", "--lines", "AB", "--standby", "--gateways", "2")
        before = up.mesh(*PAIRS)
        assert set(before.pids) == set(PAIRS)
        assert before.simulator_url is not None
        assert len(before.registry_endpoints) == 2
        assert before.gateway_urls[0] == before.gateway_url
        assert len(set(before.gateway_urls)) == 2
        for url in before.gateway_urls:
            first_updates(url, ["BTC-USD"], 3)
        assert rows_of(up)["ingestor-B"]["line"] == "B"
        victims = ("ingestor-B", "normalizer-0", "snapshotter-0-b", "gateway-1", "registry-1")
        for name in victims:
            os.kill(before.pids[name], signal.SIGKILL)

        def started_anew() -> MeshFile | None:
            mesh = up.mesh(*PAIRS)
            return mesh if all(mesh.pids[name] != before.pids[name] for name in victims) else None

        after = until(started_anew, "new processes")
        assert after.gateway_urls == before.gateway_urls, "addresses stay"
        for url in after.gateway_urls:
            first_updates(url, ["BTC-USD", "ETH-USD"], 10)
        assert up.interrupt() == 0
        up.gone()
        said = up.out.read_text()
        assert all(f"{name:<16} stopped" in said for name in PAIRS)
        assert "  ".join(before.gateway_urls) in said
        assert "Traceback" not in up.said()


def rows_of(up: Up) -> dict[str, dict[str, object]]:
    """What `lfmesh top` says of each process."""
    top = run_lfmesh("top", "--json", "--data-dir", str(up.data_dir), up=up)
    assert top.returncode == 0, top.stderr
    (found,) = json_lines(top.stdout)
    roles = found["roles"]
    assert isinstance(roles, list)
    return {role["instance"]: role for role in roles}


def test_one_of_a_pair_is_active_and_the_other_takes_over() -> None:
    with an_up() as up:
        up.start("--shards", "1", "--products", "2", "--standby", "--log-format", "json")
        up.mesh(*(name for name in PAIRS if name not in ("ingestor-B", "gateway-1")))
        first_updates(up.mesh().gateway_url, ["BTC-USD"], 2)
        one, other = until(lambda: active_and_standby(up), "one active, one standby")
        os.kill(up.mesh().pids[one], signal.SIGKILL)
        until(lambda: active_and_standby(up) == (other, one), "they have changed places")
        first_updates(up.mesh().gateway_url, ["BTC-USD"], 5)
        taken_over = up.err.read_text().count("taking over")
        assert taken_over >= 1
        assert up.interrupt() == 0
        up.gone()
        assert up.err.read_text().count("taking over") == taken_over, "a standby ends first, and takes nothing over"
        duties = [(line["name"], line["duty"]) for line in json_lines(up.out.read_text()) if line.get("duty")]
        assert (other, "standby") in duties
        assert (other, "active") in duties


def active_and_standby(up: Up) -> tuple[str, str] | None:
    """The names of the two normalizers, the active one first; None while it is not one of each."""
    rows = [row for row in rows_of(up).values() if row["role"] == "normalizer" and row["state"] == "ready"]
    by_duty = {bool(row["active"]): str(row["instance"]) for row in rows if row["active"] is not None}
    return (by_duty[True], by_duty[False]) if len(rows) == len(by_duty) == 2 else None


def test_a_further_gateway_takes_another_port_where_the_next_one_is_in_use() -> None:
    with an_up() as up:
        port, taken = two_ports_in_a_row()
        with taken:
            up.start("--shards", "1", "--products", "2", "--gateways", "2", "--gateway-port", str(port))
            mesh = up.mesh("gateway-0", "gateway-1")
            assert mesh.gateway_url == f"ws://127.0.0.1:{port}/ws"
            first, second = mesh.gateway_urls
            assert second not in (first, f"ws://127.0.0.1:{port + 1}/ws")
            first_updates(second, ["BTC-USD"], 2)
            assert up.interrupt() == 0
        up.gone()


def two_ports_in_a_row() -> tuple[int, socket.socket]:
    """A free port, and a socket that listens on the next one."""
    for _ in range(50):
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1] - 1
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            taken.close()
        else:
            return port, taken
    raise AssertionError("no two free ports in a row")
