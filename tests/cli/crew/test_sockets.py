"""Listening sockets that share a port."""

import socket

import pytest

from lfmesh.cli.crew.run import worker_address
from lfmesh.cli.crew.sockets import close, listen
from lfmesh.errors import BadEndpoint, ConfigError, PortInUse


def accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_the_kernel_shares_connections_out() -> None:
    sockets = listen("127.0.0.1", 0, 3)
    try:
        ports = {one.getsockname()[1] for one in sockets}
        assert len(ports) == 1
        clients = [socket.create_connection(("127.0.0.1", *ports)) for _ in range(60)]
        counts = [accepted(one) for one in sockets]
        assert sum(counts) == 60
        assert min(counts) > 0
        for client in clients:
            client.close()
    finally:
        close(sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_another_gateway_shares_out_already_is_in_use(host: str) -> None:
    sockets = listen("127.0.0.1", 0, 2)
    port = sockets[0].getsockname()[1]
    try:
        with pytest.raises(PortInUse, match=f"http://{host}:{port} is in use by another process"):
            listen(host, port, 2)
    finally:
        close(sockets)
    close(listen("127.0.0.1", port, 2))


def test_an_address_of_another_machine_is_a_line() -> None:
    with pytest.raises(BadEndpoint, match=r"cannot listen on http://192\.0\.2\.1:0"):
        listen("192.0.2.1", 0, 2)


def test_a_platform_without_shared_ports_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigError, match=r"gateway.workers = 2 needs SO_REUSEPORT"):
        listen("127.0.0.1", 0, 2)


@pytest.mark.parametrize(
    ("template", "second"),
    [
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
        ("tcp://*:5560", "tcp://*:5561"),
        ("tcp://[::1]:5560", "tcp://[::1]:5561"),
        ("ipc:///tmp/x/gateway-0.telemetry", "ipc:///tmp/x/gateway-0.telemetry.2"),
        ("ipc:///tmp/{instance}", "ipc:///tmp/{instance}"),
    ],
)
def test_each_worker_has_an_address_of_its_own(template: str, second: str) -> None:
    assert worker_address(template, 2) == second


def test_ports_for_all_workers_must_be_there() -> None:
    with pytest.raises(ConfigError, match="leaves no ports"):
        worker_address("tcp://127.0.0.1:65535", 2)
