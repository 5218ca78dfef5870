"""Relays with real sockets: a link that is cut, delayed, or loses messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import zmq
import zmq.asyncio

from loadgen.chaos.relay import Post
from loadgen.chaos.relays import Relays
from tests.aio import run


class Ends:
    """A PUSH that connects through a relay to a PULL."""

    def __init__(self, relays: Relays, push: zmq.asyncio.Socket, pull: zmq.asyncio.Socket) -> None:
        self.relays = relays
        self.push = push
        self.pull = pull

    async def send(self, first: int, last: int) -> None:
        for number in range(first, last):
            await self.push.send(b"%d" % number)

    async def receive(self) -> int:
        return int(await asyncio.wait_for(self.pull.recv(), 10))


def endpoint_of(socket: zmq.asyncio.Socket) -> str:
    found = socket.get(zmq.LAST_ENDPOINT)
    assert isinstance(found, bytes)
    return found.decode().rstrip("\0")


@asynccontextmanager
async def linked() -> AsyncIterator[Ends]:
    context = zmq.asyncio.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.setsockopt(zmq.LINGER, 0)
    push.setsockopt(zmq.LINGER, 0)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    try:
        async with Relays(1) as relays:
            ports = await relays.open([Post("one", "a=b", "a", "127.0.0.1", port, drop_up=True)])
            push.connect(f"tcp://127.0.0.1:{ports['one']}")
            yield Ends(relays, push, pull)
    finally:
        push.close()
        pull.close()
        context.term()


def test_messages_pass_in_order() -> None:
    async def scenario() -> None:
        async with linked() as ends:
            await ends.send(0, 1000)
            assert [await ends.receive() for _ in range(1000)] == list(range(1000))

    run(scenario())


def test_a_cut_link_is_silent_and_then_gives_what_was_under_way() -> None:
    async def scenario() -> None:
        async with linked() as ends:
            await ends.send(0, 1)
            assert await ends.receive() == 0
            await ends.relays.weather("a=b", cut=True)
            await ends.send(1, 50)
            assert not await ends.pull.poll(300)
            await ends.relays.weather("a=b")
            assert [await ends.receive() for _ in range(49)] == list(range(1, 50))

    run(scenario())


def test_a_connection_made_while_the_link_is_cut_works_afterwards() -> None:
    async def scenario() -> None:
        async with linked() as ends:
            await ends.relays.weather("a=b", cut=True)
            other = ends.push.context.socket(zmq.PUSH)
            other.setsockopt(zmq.LINGER, 0)
            other.connect(endpoint_of(ends.push))
            await other.send(b"7")
            assert not await ends.pull.poll(300)
            await ends.relays.weather("a=b")
            assert await ends.receive() == 7
            other.close()

    run(scenario())


def test_messages_vanish_whole_and_the_others_stay_in_order() -> None:
    async def scenario() -> None:
        async with linked() as ends:
            await ends.send(0, 1)
            await ends.receive()
            await ends.relays.weather("a=b", drop_share=0.3)
            await ends.send(1, 500)
            # Everything before it has come, or is lost, once this one comes by fair weather.
            received: list[int] = []
            while not received or await ends.pull.poll(300):
                received.append(await ends.receive())
            dropped = await ends.relays.weather("a=b")
            assert received == sorted(set(received))
            assert 0 < dropped == 499 - len(received)
            await ends.send(1000, 1001)
            assert await ends.receive() == 1000

    run(scenario())


def test_a_delay_delays() -> None:
    async def scenario() -> None:
        async with linked() as ends:
            await ends.send(0, 1)
            await ends.receive()
            await ends.relays.weather("a=b", delay_s=0.3)
            await ends.send(1, 4)
            assert not await ends.pull.poll(200)
            assert [await ends.receive() for _ in range(3)] == [1, 2, 3]

    run(scenario())


async def gone(endpoint: str) -> None:
    """Return when nobody listens there any more: ZeroMQ's own thread closes what is unbound."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue
        writer.transport.abort()


def test_what_is_not_there_yet_is_connected_to_later() -> None:
    async def scenario() -> None:
        async with linked() as ends:
            endpoint = endpoint_of(ends.pull)
            ends.pull.unbind(endpoint)
            await gone(endpoint)
            await ends.send(0, 3)
            assert not await ends.pull.poll(200)
            ends.pull.bind(endpoint)
            assert [await ends.receive() for _ in range(3)] == [0, 1, 2]

    run(scenario())
