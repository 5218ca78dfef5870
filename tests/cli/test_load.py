"""`lfmesh load` as its user calls it, against a gateway in a thread of its own."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lfmesh.cli.root import execute
from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile
from tests.services.gateway.kit import PRODUCTS, TICKER, World, configured, world

_READY_S = 20.0
ADMITTED = 5


class Served:
    """A gateway whose BTC-USD ticker goes on and on."""

    def __init__(self) -> None:
        self.url = ""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(_READY_S)

    def end(self) -> None:
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_READY_S)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with world(configured(heartbeat_interval_s=1.0, max_clients=ADMITTED)) as here:
            here.normalizer.open(TICKER)
            await here.caught_up(TICKER)
            self.url = here.ws_url
            self._ready.set()
            pumping = asyncio.create_task(_pump(here))
            await self._over.wait()
            pumping.cancel()


async def _pump(here: World) -> None:
    number = 0
    while True:
        number += 1
        here.normalizer.publish(TICKER, [number])
        await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.end()


def load(*arguments: str) -> int:
    return execute(["load", "BTC-USD", "--clients", "3", "--duration", "0.3", "--check", "1", *arguments])


def test_a_table_and_what_was_expected(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    code = load("--url", served.url, "--expect", "gaps==0", "--expect", "deliveries_per_s>=50", "--expect", "joined==3")
    told = capsys.readouterr()
    assert code == 0, told.out
    assert "3 clients" in told.out
    assert "gaps==0: met (0)" in told.out
    assert told.err == ""
    assert "not_joined" not in told.out


def test_who_expects_anything_expects_all_to_join(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """The gateway lets only so many of one address in."""
    crowd = ("--clients", str(ADMITTED + 1), "--join-timeout", "0.3", "--url", served.url)
    assert load(*crowd, "--expect", "gaps==0") == 1
    told = capsys.readouterr().out
    assert "gaps==0: met (0)" in told
    assert "not_joined==0: NOT MET (1)" in told
    assert load(*crowd, "--expect", "gaps==0", "--expect", "not_joined<=1") == 0


def test_json_and_what_was_not_met(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    code = load("--url", served.url, "--json", "--expect", "joined>=4", "--expect", "closes.4001==0")
    told = capsys.readouterr()
    assert code == 1
    found = json.loads(told.out)
    assert (found["joined"], found["violations_total"], found["checked"]) == (3, 0, 3)
    assert found["deliveries"] > 0
    assert found["expectations"] == [
        {"condition": "joined>=4", "value": 3.0, "met": False},
        {"condition": "closes.4001==0", "value": 0.0, "met": True},
    ]
    assert told.err == "lfmesh load: joined>=4: NOT MET (3)\n"


def test_the_running_mesh_is_found_and_its_processes_are_told(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    http_url = served.url.replace("ws://", "http://").removesuffix("/ws")
    mesh = MeshFile(os.getpid(), 1, served.url, http_url, [], str(tmp_path), pids={"gateway-0": os.getpid()})
    meshfile.write(tmp_path, mesh)
    assert load("--data-dir", str(tmp_path), "--json", "--expect", "roles.gateway-0.rss_mb>1") == 0
    assert list(json.loads(capsys.readouterr().out)["roles"]) == ["gateway-0"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--expect", "gaps"), 2, "'gaps' is no condition"),
        (("--expect", "holes==0"), 2, "no figure is called 'holes'; there are clients, processes,"),
        (
            ("--expect", "outcomes.behnid==0"),
            2,
            "'outcomes.behnid': outcomes are of kept_up, conflated, closed",
        ),
        (("--offences", "murder"), 2, "murder: any of bad_json"),
        (("--slow", "1.5"), 2, "1.5 is not in the range"),
        (("--url", "ws://127.0.0.1:1/ws"), 2, "no answer from http://127.0.0.1:1/products"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(*arguments) == code
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_unknown_products_are_told_with_the_known_ones(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["load", "NOPE-USD", "--url", served.url]) == 2
    assert f"does not know NOPE-USD; it carries {', '.join(PRODUCTS)}" in capsys.readouterr().err
