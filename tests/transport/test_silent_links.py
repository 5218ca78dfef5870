"""Networks that swallow packets, between real sockets: a proxy in the way, and where the machine allows a real one."""

import asyncio
import os
import shutil
import subprocess
import sys

import pytest
import zmq

from lfmesh.transport import Publisher, Requester, Responder, Server, Subscriber, Transport
from tests.aio import eventually, run
from tests.transport.proxy import BOTH, Direction, proxied

ANY = "tcp://127.0.0.1:0"
WAYS = pytest.mark.parametrize("ways", [BOTH, ("to_server",), ("to_client",)], ids=["both", "to_server", "to_client"])


def test_a_silent_link_is_given_up_within_a_second() -> None:
    with Transport() as transport:
        socket = transport.socket(zmq.DEALER, 10)

        def ms(option: int) -> int:
            return int(socket.get(option))

        assert 0 < ms(zmq.HEARTBEAT_IVL) + ms(zmq.HEARTBEAT_TIMEOUT) <= 1000
        assert 0 < ms(zmq.HEARTBEAT_TTL) <= 1000, "the other side gives up too"
        assert 0 < ms(zmq.CONNECT_TIMEOUT) <= 1000
        assert 0 < ms(zmq.HANDSHAKE_IVL) <= 1000
        socket.close()


@WAYS
def test_a_subscriber_comes_back(ways: tuple[Direction, ...]) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            joined: list[bytes] = []
            publisher = Publisher(transport, ANY, hwm=0, on_subscription=lambda topic, _: joined.append(topic))
            async with proxied(publisher.endpoint) as proxy:
                got: list[bytes] = []
                subscriber = Subscriber(transport, [b"md."], got.extend, hwm=0)
                subscriber.connect(proxy.endpoint)
                await eventually(lambda: joined)
                proxy.swallow(*ways)
                publisher.publish(b"md.lost")
                proxy.heal()
                joined.clear()
                subscriber.reconnect(proxy.endpoint)  # as who misses beacons does
                await eventually(lambda: joined)
                publisher.publish(b"md.again")
                await eventually(lambda: b"md.again" in got)

    run(scenario())


@WAYS
def test_requests_time_out_and_later_ones_are_answered(ways: tuple[Direction, ...]) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            asked: list[bytes] = []

            def answer(payload: bytes, responder: Responder) -> None:
                asked.append(payload)
                responder.reply(payload)

            server = Server(transport, ANY, answer)
            async with proxied(server.endpoint) as proxy:
                requester = Requester(transport, proxy.endpoint)
                assert await requester.request(b"first", 5.0) == [b"first"]
                proxy.swallow(*ways)
                answers: list[object] = []
                for _ in range(2):
                    requester.ask(b"lost", answers.append, 0.2)
                await eventually(lambda: answers == [None, None])
                assert requester.unanswered == 2
                await eventually(lambda: proxy.ended)
                proxy.heal()

                async def answered() -> bool:
                    done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                    requester.ask(b"again", done.set_result, 0.3)
                    return await done is not None

                async with asyncio.timeout(10):
                    while not await answered():
                        pass
                assert requester.unanswered == 0

    run(scenario())


def test_a_requester_made_anew_forgets_what_waited_and_asks_at_once() -> None:
    async def scenario() -> None:
        with Transport() as transport:
            asked: list[bytes] = []

            def answer(payload: bytes, responder: Responder) -> None:
                asked.append(payload)
                responder.reply(payload)

            server = Server(transport, ANY, answer)
            async with proxied(server.endpoint) as proxy:
                proxy.swallow()
                requester = Requester(transport, proxy.endpoint)
                answers: list[object] = []
                for number in range(5):
                    requester.ask(b"%d" % number, answers.append, 30.0)
                requester.reconnect()
                proxy.heal()
                assert answers == [], "never called from inside a call"
                await eventually(lambda: answers == [None] * 5)
                assert await requester.request(b"new", 5.0) == [b"new"]
                assert asked == [b"new"]
                requester.close()
                requester.reconnect()

    run(scenario())


def test_a_subscriber_made_anew_gets_what_is_published_from_then_on_from_all() -> None:
    async def scenario() -> None:
        with Transport() as transport:
            joined: list[bytes] = []
            first, second = (
                Publisher(transport, ANY, hwm=0, on_subscription=lambda topic, _: joined.append(topic))
                for _ in range(2)
            )
            got: list[bytes] = []
            subscriber = Subscriber(transport, [b"a", b"b"], got.extend, hwm=0)
            for publisher in (first, second):
                subscriber.connect(publisher.endpoint)
            await eventually(lambda: len(joined) == 4)
            joined.clear()
            subscriber.reconnect(first.endpoint)
            await eventually(lambda: {b"a", b"b"} <= set(joined))
            joined.clear()
            for publisher in (first, second):
                publisher.publish(b"a")
            await eventually(lambda: got.count(b"a") == 2)

    run(scenario())


def in_namespace(module: str) -> None:
    """Run a module's scenario in a network of its own, which it may break; skip where the machine does not allow it."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root, unshare, ip and tc")
    probe = "ip link set lo up && tc qdisc add dev lo root tbf rate 8bit burst 1 limit 1"
    if subprocess.run([unshare, "-n", "sh", "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a network namespace, or drop packets in it")
    ran = subprocess.run(
        [unshare, "-n", sys.executable, "-m", module], capture_output=True, text=True, check=False, timeout=90
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_network_that_drops_every_packet_is_noticed_and_its_return() -> None:
    in_namespace("tests.transport.packets")
