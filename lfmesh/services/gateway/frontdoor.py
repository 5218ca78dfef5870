"""Where clients come in: one port for WebSocket and HTTP, admission, and the end in order.

A connection's handler reads requests and hands them to its `Session`; everything that goes out is written by the hub.

The end (`shut`): the listening socket is closed and who is still in the door is refused; clients are sent away one
after the other (`core/departures.py`) while data flows on: `goaway`, some time to go by themselves, then nothing new,
what waits for them, and close 1001. They resume elsewhere by position.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from lfmesh.config import GatewaySection
from lfmesh.core.departures import Departure, departures
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
from lfmesh.services.gateway.replay import ReplayDesk
from lfmesh.services.gateway.session import Session
from lfmesh.services.gateway.statistics import ClientCounters

if TYPE_CHECKING:
    from websockets.typing import LoggerLike

WEBSOCKET_PATH = "/ws"
_BACKLOG = 4096
_OPEN_TIMEOUT_S = 10.0
_FLUSH_S = 1.0
"""What waits for a client that is sent away gets so long to leave."""


class _Guest:
    """A connected client."""

    __slots__ = ("client", "empty", "left")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.left = asyncio.Event()
        self.empty = asyncio.Event()
        """Set whenever nothing waits in its outbox; cleared by who waits for that."""


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
        replay: ReplayDesk | None = None,
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
        self._replay = replay
        self._server: Server | None = None
        self._guests: dict[ClientConnection, _Guest] = {}
        self._connections: set[ClientConnection] = set()
        """All of them: guests, and who has not got so far or asks for something by HTTP."""
        self.draining = False
        """True once nobody is taken in any more."""

    async def open(self, routes: Mapping[str, Route], prefixes: Mapping[str, Route]) -> None:
        """Listen; PortInUse or BadEndpoint where that is impossible."""
        section = self._section
        here = self._connections

        class Tracked(ClientConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                here.add(self)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                here.discard(self)
                super().connection_lost(exc)

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
                create_connection=Tracked,
                logger=_quiet_logger(),
                backlog=_BACKLOG,
            )
        self.url = http_url(section.host, self._server.sockets[0].getsockname()[1])

    async def shut(self) -> None:
        """Take nobody in any more, send everybody away within `drain_s`, close with 1001. Idempotent."""
        server, self.draining = self._server, True
        if server is None:
            return
        server.close(close_connections=False)
        guests = tuple(self._guests.items())
        began = asyncio.get_running_loop().time()
        planned = departures(len(guests), self._section.drain_s)
        await asyncio.gather(
            *(self._send_away(*guest, began, departure) for guest, departure in zip(guests, planned, strict=True))
        )
        for connection in tuple(self._connections):
            connection.transport.abort()  # who never came in would hold the end up until its time is over
        await server.wait_closed()

    async def _send_away(self, connection: ClientConnection, guest: _Guest, began: float, departure: Departure) -> None:
        client = guest.client
        if await _within(guest.left, began + departure.goaway_at_s):
            return
        self.counters.goaways_total += 1
        self._hub.send(client, answers.goaway(departure.reconnect_ms))
        if await _within(guest.left, began + departure.close_at_s):
            return
        self._hub.finish(client)
        if client.pending:
            guest.empty.clear()
            await _within(guest.empty, asyncio.get_running_loop().time() + _FLUSH_S)
        await close(connection, CloseCode.GOING_AWAY, "draining")

    async def _serve(self, connection: ServerConnection) -> None:
        connection = cast("ClientConnection", connection)
        if self.draining or len(self._guests) >= self._section.max_clients:
            reason = "draining" if self.draining else "full"
            self.counters.refused_total[reason] += 1
            await close(connection, CloseCode.TRY_AGAIN_LATER, f"{reason}, try later")
            return
        self.counters.connections_total += 1
        client = self._hub.connect(ConnectionSink(connection, self._context.spawn))
        guest = self._guests[connection] = _Guest(client)
        try:
            await self._converse(connection, guest)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._context.spawn(_fail(error))  # the library would only log it
            raise
        finally:
            del self._guests[connection]
            self._hub.disconnect(client)
            guest.left.set()
            guest.empty.set()
            self.counters.closes_total[_close_code(connection)] += 1

    async def _converse(self, connection: ClientConnection, guest: _Guest) -> None:
        section, clock, client = self._section, self._context.clock, guest.client
        bucket = TokenBucket(section.request_rate_per_s, section.request_burst, clock())
        session = Session(
            self._hub,
            self._board,
            client,
            self._products,
            section.max_subscriptions_per_client,
            bucket,
            self.counters,
            self._replay,
        )
        connection.flow = _ClientFlow(self._hub, guest, clock, self._settle)
        if self._replay is not None:
            self._replay.welcome(client)
        async for message in connection:
            session.handle(message, clock())
            self._settle()


class _ClientFlow:
    """Tells the hub about a client's socket."""

    __slots__ = ("_clock", "_guest", "_hub", "_settle")

    def __init__(self, hub: Hub, guest: _Guest, clock: Callable[[], int], settle: Callable[[], None]) -> None:
        self._hub = hub
        self._guest = guest
        self._clock = clock
        self._settle = settle

    def paused(self) -> None:
        self._hub.paused(self._guest.client, self._clock())

    def drained(self) -> None:
        client = self._guest.client
        self._hub.drained(client)
        if not client.pending:
            self._guest.empty.set()
        self._settle()


async def _within(event: asyncio.Event, deadline: float) -> bool:
    """True if the event comes before this time of the loop."""
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True


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
