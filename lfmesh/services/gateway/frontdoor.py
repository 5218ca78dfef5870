"""Where clients come in: one port for WebSocket and HTTP, admission, and the end in order.

A connection's handler reads requests and hands them to its `Session`; everything that goes out is written by the hub.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from lfmesh.config import GatewaySection
from lfmesh.core.hub import Hub
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_status import StatusBoard
from lfmesh.core.limits import TokenBucket
from lfmesh.observe.http import Route, http_url, listening, processor
from lfmesh.ports import Context
from lfmesh.services.gateway import answers
from lfmesh.services.gateway.connection import (
    CLOSE_TIMEOUT_S,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    ClientConnection,
    ConnectionSink,
    close,
)
from lfmesh.services.gateway.session import Session
from lfmesh.services.gateway.statistics import ClientCounters

if TYPE_CHECKING:
    from websockets.typing import LoggerLike

WEBSOCKET_PATH = "/ws"
_BACKLOG = 4096
_OPEN_TIMEOUT_S = 10.0
_RECONNECT_SPREAD_MS = 1000


class FrontDoor:
    """See the module's docstring. `settle` is called after whatever may have given the hub something to do."""

    def __init__(
        self,
        section: GatewaySection,
        context: Context,
        hub: Hub,
        board: StatusBoard,
        products: Mapping[str, int],
        settle: Callable[[], None],
    ) -> None:
        self.counters = ClientCounters()
        self.url = ""
        """Base URL of the port, known once it is open."""
        self._section = section
        self._context = context
        self._hub = hub
        self._board = board
        self._products = products
        self._settle = settle
        self._server: Server | None = None
        self._connections: dict[ClientConnection, Client] = {}
        self._left = asyncio.Event()
        self._draining = False

    async def open(self, routes: Mapping[str, Route], prefixes: Mapping[str, Route]) -> None:
        """Listen; PortInUse or BadEndpoint where that is impossible."""
        section = self._section
        with listening(section.host, section.port):
            self._server = await serve(
                self._serve,
                section.host,
                section.port,
                process_request=processor(routes, prefixes, WEBSOCKET_PATH),
                compression=None,
                server_header=None,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=section.ping_interval_s,
                ping_timeout=section.ping_interval_s,
                max_size=section.max_request_bytes,
                write_limit=(WRITE_HIGH_BYTES, WRITE_LOW_BYTES),
                create_connection=ClientConnection,
                logger=_quiet_logger(),
                backlog=_BACKLOG,
            )
        self.url = http_url(section.host, self._server.sockets[0].getsockname()[1])

    async def shut(self) -> None:
        """Take nobody in any more, tell everybody to go, give them `drain_s`, then close with 1001. Idempotent."""
        server, self._draining = self._server, True
        if server is None:
            return
        server.close(close_connections=False)
        for client in self._connections.values():
            self._hub.send(client, answers.goaway(client.number * 37 % _RECONNECT_SPREAD_MS))
        try:
            async with asyncio.timeout(self._section.drain_s):
                while self._connections:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            pass
        await asyncio.gather(*(close(one, CloseCode.GOING_AWAY, "draining") for one in tuple(self._connections)))
        await server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        connection = cast("ClientConnection", connection)
        if self._draining or len(self._connections) >= self._section.max_clients:
            reason = "draining" if self._draining else "full"
            self.counters.refused_total[reason] += 1
            await close(connection, CloseCode.TRY_AGAIN_LATER, f"{reason}, try later")
            return
        self.counters.connections_total += 1
        client = self._hub.connect(ConnectionSink(connection, self._context.spawn))
        self._connections[connection] = client
        try:
            await self._converse(connection, client)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._context.spawn(_fail(error))  # the library would only log it
            raise
        finally:
            del self._connections[connection]
            self._hub.disconnect(client)
            self._left.set()
            self.counters.closes_total[_close_code(connection)] += 1

    async def _converse(self, connection: ClientConnection, client: Client) -> None:
        section, clock = self._section, self._context.clock
        bucket = TokenBucket(section.request_rate_per_s, section.request_burst, clock())
        session = Session(
            self._hub, self._board, client, self._products, section.max_subscriptions_per_client, bucket, self.counters
        )
        connection.flow = _ClientFlow(self._hub, client, clock, self._settle)
        async for message in connection:
            session.handle(message, clock())
            self._settle()


class _ClientFlow:
    """Tells the hub about a client's socket."""

    __slots__ = ("_client", "_clock", "_hub", "_settle")

    def __init__(self, hub: Hub, client: Client, clock: Callable[[], int], settle: Callable[[], None]) -> None:
        self._hub = hub
        self._client = client
        self._clock = clock
        self._settle = settle

    def paused(self) -> None:
        self._hub.paused(self._client, self._clock())

    def drained(self) -> None:
        self._hub.drained(self._client)
        self._settle()


async def _fail(error: Exception) -> None:
    raise error


def _close_code(connection: ClientConnection) -> str:
    """The code of whoever closed first; 1006 if nobody did."""
    protocol = connection.protocol
    first = protocol.close_rcvd if protocol.close_rcvd_then_sent else protocol.close_sent or protocol.close_rcvd
    return str(int(first.code)) if first is not None else str(int(CloseCode.ABNORMAL_CLOSURE))


def _quiet_logger() -> "LoggerLike":
    """The library logs each connection, and a traceback for each that fails its handshake: counters say as much."""
    logger = logging.getLogger("lfmesh.gateway.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger
