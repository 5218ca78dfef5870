import pytest

from lfmesh.core.addresses import host_of, is_endpoint, reachable


@pytest.mark.parametrize(
    ("bound", "shown"),
    [
        ("tcp://0.0.0.0:7400", "tcp://mesh-1:7400"),
        ("tcp://*:7400", "tcp://mesh-1:7400"),
        ("tcp://[::]:7400", "tcp://mesh-1:7400"),
        ("http://0.0.0.0:8000", "http://mesh-1:8000"),
        ("tcp://127.0.0.1:7400", "tcp://127.0.0.1:7400"),
        ("tcp://10.0.0.5:7400", "tcp://10.0.0.5:7400"),
        ("ipc:///run/lfmesh/requests", "ipc:///run/lfmesh/requests"),
        ("", ""),
    ],
)
def test_what_listens_everywhere_is_shown_under_the_advertised_host(bound: str, shown: str) -> None:
    assert reachable(bound, "mesh-1") == shown


def test_an_ipv6_host_is_advertised_in_brackets() -> None:
    assert reachable("tcp://0.0.0.0:1", "fd00::1") == "tcp://[fd00::1]:1"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://127.0.0.1:1", "127.0.0.1"),
        ("tcp://[::1]:1", "::1"),
        ("http://host:8000/path", "host"),
        ("ipc:///tmp/x:1", ""),
        ("", ""),
    ],
)
def test_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "tcp://registry-0.registry:65535", "tcp://[::1]:80", "ipc:///tmp/x"]
)
def test_an_endpoint(address: str) -> None:
    assert is_endpoint(address)


@pytest.mark.parametrize(
    "address",
    ["", "tcp://", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://a b:1", "tcp://:1", "tcp://.:1",
     "udp://host:1", "ipc://", "ipc://" + "x" * 200, "tcp://host:1/x"],
)  # fmt: skip
def test_no_endpoint(address: str) -> None:
    assert not is_endpoint(address)
