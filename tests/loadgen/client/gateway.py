"""A scripted gateway on a real socket: answers `subscribe`, sends what the test says, serves /products."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError
from websockets.http11 import Request, Response

Script = Callable[[dict[str, object]], Sequence[bytes]]
"""The frames that follow `subscribed`, given the request."""


@asynccontextmanager
async def gateway(script: Script, *, close: tuple[int, str] | None = None) -> AsyncIterator[str]:
    """The WebSocket URL of a gateway; `close` ends each connection after the script."""

    async def handle(connection: ServerConnection) -> None:
        with suppress(ConnectionClosedError):
            await converse(connection)

    async def converse(connection: ServerConnection) -> None:
        async for text in connection:
            request = json.loads(text)
            match request["op"]:
                case "subscribe":
                    answer = {key: request[key] for key in ("id", "products", "channels")}
                    await connection.send(json.dumps({"op": "subscribed", **answer}))
                    for frame in script(request):
                        await connection.send(frame, text=True)
                    if close is not None:
                        await connection.close(*close)
                        return
                case "ping":
                    await connection.send(json.dumps({"op": "pong", "t": request["t"]}))
                case _:
                    raise AssertionError(text)

    def http(_connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/ws":
            return None
        body = json.dumps({"products": [{"id": "BTC-USD", "shard": 0, "channels": ["ticker"]}]}).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        return Response(HTTPStatus.OK, "OK", headers, body)

    async with serve(handle, "127.0.0.1", 0, process_request=http) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
