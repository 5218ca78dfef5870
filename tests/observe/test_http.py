"""HTTP over real sockets, with a client that hides nothing of the wire where that matters."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from lfmesh.errors import BadEndpoint, PortInUse, StoreUnavailable
from lfmesh.observe.http import (
    HttpReply,
    HttpRequest,
    HttpServer,
    Route,
    health_routes,
    http_url,
    json,
    processor,
    serve_http,
    text,
)
from lfmesh.types import Role
from tests.aio import run

BIG = b"0123456789abcdef" * 262_144  # 4 MiB


def echo(request: HttpRequest) -> HttpReply:
    return json(200, {"path": request.path, "query": request.query})


async def later(request: HttpRequest) -> HttpReply:
    await asyncio.sleep(0)
    return text(200, f"later {request.path}")


def unavailable(_: HttpRequest) -> HttpReply:
    raise StoreUnavailable("the store is away")


ROUTES: dict[str, Route] = {
    "/echo": echo,
    "/later": later,
    "/store": unavailable,
    "/big": lambda _: HttpReply(200, "application/octet-stream", BIG),
    "/headers": lambda _: text(200, "x")._replace(headers=(("X-Own", "1"),)),
}


@asynccontextmanager
async def serving() -> AsyncIterator[HttpServer]:
    server = await serve_http("127.0.0.1", 0, ROUTES)
    try:
        yield server
    finally:
        await server.close()


def with_client(scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with serving() as server, httpx.AsyncClient(base_url=server.url) as client:
            await scenario(client)

    run(whole())


async def raw(server: HttpServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_route_gets_the_decoded_path_and_query() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get("/echo?channel=ticker&x=a%20b+c&empty=")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"path": "/echo", "query": {"channel": "ticker", "x": "a b c", "empty": ""}}

    with_client(scenario)


def test_a_route_may_be_awaited_and_add_headers() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/later")).text == "later /later"
        assert (await client.get("/headers")).headers["x-own"] == "1"

    with_client(scenario)


def test_a_big_reply_arrives_whole() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/big")).content == BIG

    with_client(scenario)


def test_head_has_the_length_but_no_body() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.head("/big")
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(len(BIG))
        assert answer.content == b""

    with_client(scenario)


@pytest.mark.parametrize(
    ("target", "status", "word"),
    [
        ("/nothing", 404, "nothing at '/nothing'"),
        ("/echo/", 404, "nothing at '/echo/'"),
        ("/echo?a=1&a=2", 400, "given twice"),
        ("/echo?a", 400, "bad request"),
        ("/echo?a=%ff", 400, "bad request"),
        ("/%ff", 400, "bad request"),
        ("/echo?" + "&".join(f"f{number}=1" for number in range(101)), 400, "bad request"),
        ("/store", 503, "the store is away"),
    ],
)
def test_what_cannot_be_answered_is_told_in_clear_words(target: str, status: int, word: str) -> None:
    async def whole() -> None:
        async with serving() as server:
            answer = await raw(server, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert word.encode() in answer

    run(whole())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /echo HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET http://x/echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 200),
    ],
)
def test_odd_requests_get_a_status_and_the_server_lives_on(request_bytes: bytes, status: int) -> None:
    async def whole() -> None:
        async with serving() as server:
            answer = await raw(server, request_bytes)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
            assert (await raw(server, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    run(whole())


def test_what_is_no_http_is_hung_up_on_and_the_server_lives_on() -> None:
    async def whole() -> None:
        async with serving() as server:
            assert await raw(server, b"\x16\x03\x01\r\n\r\n") == b""
            assert (await raw(server, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    run(whole())


def test_closing_does_not_wait_for_a_client_that_says_nothing() -> None:
    async def whole() -> None:
        server = await serve_http("127.0.0.1", 0, ROUTES)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /ec")
        await raw(server, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")  # the silent one has been accepted before it
        await server.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(whole(), timeout=5)


def test_a_port_in_use_is_told_in_one_line() -> None:
    async def whole() -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            with pytest.raises(PortInUse, match=f"http://127.0.0.1:{port} is in use by another process"):
                await serve_http("127.0.0.1", port, ROUTES)

    run(whole())


def test_an_address_that_is_not_ours_is_told_in_one_line() -> None:
    async def whole() -> None:
        with pytest.raises(BadEndpoint, match=r"cannot listen on http://192\.0\.2\.1:0: "):
            await serve_http("192.0.2.1", 0, ROUTES)

    run(whole())


def test_an_ipv6_url_has_brackets() -> None:
    assert http_url("::1", 8000) == "http://[::1]:8000"


# Beside WebSocket ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving_both() -> AsyncIterator[str]:
    async def hello(connection: ServerConnection) -> None:
        await connection.send("hello")

    process = processor(ROUTES, {"/v1/": echo, "/v1/later/": later}, websocket_path="/ws")
    async with serve(hello, "127.0.0.1", 0, process_request=process) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_websocket_and_http_share_a_port() -> None:
    async def whole() -> None:
        async with serving_both() as place, httpx.AsyncClient() as client:
            async with connect(f"ws://{place}/ws") as websocket:
                assert await websocket.recv() == "hello"
            assert (await client.get(f"http://{place}/echo")).status_code == 200
            answer = await client.get(f"http://{place}/ws")
            assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
            assert "connect to /ws" in (await client.get(f"http://{place}/elsewhere")).text
            with pytest.raises(InvalidStatus) as refusal:
                async with connect(f"ws://{place}/elsewhere"):
                    pass
            assert refusal.value.response.status_code == 404

    run(whole())


def test_the_longest_prefix_answers() -> None:
    async def whole() -> None:
        async with serving_both() as place, httpx.AsyncClient() as client:
            answer = await client.get(f"http://{place}/v1/snapshot/BTC-USD?channel=book")
            assert answer.json() == {"path": "/v1/snapshot/BTC-USD", "query": {"channel": "book"}}
            assert (await client.get(f"http://{place}/v1/later/x")).text == "later /v1/later/x"

    run(whole())


# Probes ----------------------------------------------------------------------------------------------------------


class Probed:
    role = Role.GATEWAY
    instance = "gateway-0"

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)

    def readiness(self) -> list[str]:
        return self.reasons

    def render(self) -> bytes:
        return b"metric 1\n"


@pytest.mark.parametrize(
    ("reasons", "status", "body"),
    [
        ((), 200, b'{"ready":true,"reasons":[]}'),
        (("no data yet", "shard 1 is not attached"), 503, b'"reasons":["no data yet","shard 1 is not attached"]'),
    ],
)
def test_readiness_and_its_reasons(reasons: tuple[str, ...], status: int, body: bytes) -> None:
    probed = Probed(*reasons)
    routes = health_routes(probed, probed)
    reply = routes["/ready"](HttpRequest("/ready", {}))
    assert isinstance(reply, HttpReply)
    assert reply.status == status
    assert body in reply.body
    alive = routes["/health"](HttpRequest("/health", {}))
    assert isinstance(alive, HttpReply)
    assert alive.status == 200


def test_metrics_are_what_is_rendered() -> None:
    probed = Probed()
    reply = health_routes(probed, probed)["/metrics"](HttpRequest("/metrics", {}))
    assert isinstance(reply, HttpReply)
    assert (reply.body, reply.content_type) == (b"metric 1\n", "text/plain; version=0.0.4; charset=utf-8")
