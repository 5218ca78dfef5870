"""The session against real servers on system-chosen ports."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from lfmesh.client.session import Connected, Event, Lost, Received, Session, backoff_s
from lfmesh.errors import LfmeshError
from tests.aio import run

Handler = Callable[[ServerConnection], Awaitable[None]]


async def take(session: Session, count: int) -> list[Event]:
    taken: list[Event] = []
    async with aclosing(session.events()) as events:
        async for event in events:
            taken.append(event)
            if len(taken) == count:
                break
    return taken


def test_subscribes_receives_and_connects_again_after_a_loss() -> None:
    requests: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        requests.append(str(await connection.recv()))
        await connection.send(f'{{"number":{len(requests)}}}')
        await connection.close(1001, "draining")

    async def scenario() -> list[Event]:
        async with serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await take(Session(f"ws://127.0.0.1:{port}/ws", ["A-B", "C-D"], ["book"]), 5)

    events = run(scenario())
    lost = events[2]
    assert events[:2] == [Connected(again=False), Received('{"number":1}')]
    assert isinstance(lost, Lost)
    assert (lost.reason, lost.retry_s) == ("closed with 1001 draining", 0.0)
    assert events[3:] == [Connected(again=True), Received('{"number":2}')]
    assert json.loads(requests[1]) == {"op": "subscribe", "products": ["A-B", "C-D"], "channels": ["book"]}


@pytest.mark.parametrize("cancelled", [False, True])
def test_who_has_seen_enough_closes_normally(*, cancelled: bool) -> None:
    async def scenario() -> int | None:
        codes: asyncio.Queue[int | None] = asyncio.Queue()

        async def handler(connection: ServerConnection) -> None:
            await connection.recv()
            await connection.send("{}")
            await connection.wait_closed()
            await codes.put(connection.close_code)

        async with serve(handler, "127.0.0.1", 0) as server:
            session = Session(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws", ["A-B"], ["book"])
            if not cancelled:
                await take(session, 2)
                return await codes.get()
            received = asyncio.Event()

            async def follow() -> None:
                async with aclosing(session.events()) as events:
                    async for event in events:
                        if isinstance(event, Received):
                            received.set()

            following = asyncio.create_task(follow())
            await received.wait()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            return await codes.get()

    assert run(scenario()) == 1000


def test_nobody_there_is_a_loss_and_not_the_end() -> None:
    async def scenario() -> list[Event]:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await take(Session(f"ws://127.0.0.1:{port}/ws", ["A-B"], ["ticker"]), 2)

    for event in run(scenario()):
        assert isinstance(event, Lost)
        assert "refused" in event.reason


def test_a_server_that_is_no_gateway_is_an_error() -> None:
    def refuse(connection: ServerConnection, _request: Request) -> Response:
        return connection.respond(404, "no such page\n")

    async def scenario() -> None:
        async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=refuse) as server:
            port = server.sockets[0].getsockname()[1]
            await take(Session(f"ws://127.0.0.1:{port}/elsewhere", ["A-B"], ["ticker"]), 1)

    with pytest.raises(LfmeshError, match="is no gateway: it answers HTTP 404"):
        run(scenario())


def test_a_connection_that_ends_in_the_handshake_is_a_loss() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def scenario() -> list[Event]:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await take(Session(f"ws://127.0.0.1:{port}/ws", ["A-B"], ["ticker"]), 1)

    (event,) = run(scenario())
    assert isinstance(event, Lost)


def test_a_server_of_something_else_is_an_error() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read()
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await take(Session(f"ws://127.0.0.1:{port}/ws", ["A-B"], ["ticker"]), 1)

    with pytest.raises(LfmeshError, match="is no gateway"):
        run(scenario())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/ws", "127.0.0.1:8000", "ws://"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(LfmeshError, match="no WebSocket address"):
        run(take(Session(url, ["A-B"], ["ticker"]), 1))


def test_the_first_retry_is_at_once_and_pauses_are_bounded() -> None:
    pauses = [backoff_s(failures) for failures in range(1, 100)]
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
