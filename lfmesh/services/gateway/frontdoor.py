"""Where clients come in: one port for WebSocket and HTTP, admission, and the end in order.

A connection's handler reads requests and hands them to its `Session`; everything that goes out is written by the hub.
What holds for a connection that is no client (yet) is in `doorway.py`.

Whoever is one too many is told so by WebSocket close 1013 after the handshake, since browsers don't show a page an HTTP
status; measured, that costs 0.27 ms of CPU, against 0.2 ms for a 503. Of the requests of one client one is dealt with
a turn of the loop. Past its rate it is answered with `rate_limit`, and closed with 1008 when it has been answered so
for `PatientBucket`'s patience; with 1008, too, when it follows nothing and has asked nothing for `idle_timeout_s`.

Compression (permessage-deflate, RFC 7692) is without context takeover on both sides: the library makes a decompressor
when a compressed message comes and drops it at its end, so a connection costs a few hundred bytes more, not 300 KB.
What it makes of a message is bounded like a plain one (`max_request_bytes`, else 1009).

The end (`shut`): the listening socket is closed and who is still in the door is refused; clients are sent away one
after the other (`core/departures.py`) while data flows on: `goaway`, some time to go by themselves, then nothing new,
what waits for them, and close 1001. They resume elsewhere by position.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import CloseCode

from lfmesh.config import GatewaySection
from lfmesh.core.admission import Admissions
from lfmesh.core.departures import Departure, departures
from lfmesh.core.hub import Hub
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_frames import DEFLATE_WINDOW_BITS
from lfmesh.core.hub_status import StatusBoard
from lfmesh.core.limits import PatientBucket
from lfmesh.observe.http import Route, http_url, listening, processor
from lfmesh.ports import Admission, Context
from lfmesh.services.gateway import answers
from lfmesh.services.gateway.connection import (
    CLOSE_TIMEOUT_S,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    ClientConnection,
    ConnectionSink,
    close,
)
from lfmesh.services.gateway.doorway import REPLY_TIMEOUT_S, Arrival, Doorway
from lfmesh.services.gateway.keepalive import Keepalive
from lfmesh.services.gateway.replay import ReplayDesk
from lfmesh.services.gateway.session import Session
from lfmesh.services.gateway.statistics import ClientCounters
from lfmesh.services.gateway.turnstile import Turnstile

if TYPE_CHECKING:
    from websockets.typing import LoggerLike

WEBSOCKET_PATH = "/ws"
_BACKLOG = 4096
_TURN_S = 0.002
"""Requests are dealt with for about so long in one turn of the loop; what is published goes out in between."""
_PING = b"\x89\x00"
_FLUSH_S = 1.0
"""What waits for a client that is sent away gets so long to leave."""
_REFUSALS = {
    "draining": "draining, try later",
    "full": "full, try later",
    "address": "too many connections from this address, try later",
}
"""What a client that is not taken in is told with 1013."""


class OwnAdmission:
    """`lfmesh.ports.Admission` of a gateway that is one process."""

    def __init__(self, section: GatewaySection) -> None:
        self._admissions = Admissions(section.max_clients, section.max_clients_per_address)

    async def admit(self, address: str) -> str:
        """Take one more connection, or say why not."""
        return self._admissions.admit(address)

    def leave(self, address: str) -> None:
        """One has ended."""
        self._admissions.leave(address)


class _Guest:
    """A connected client. `asked_at` is when it has last asked for something (the loop's time, s)."""

    __slots__ = ("_connection", "_hub", "asked_at", "client", "empty", "idle", "left", "pinged_at")

    def __init__(self, client: Client, connection: Arrival, hub: Hub) -> None:
        self.client = client
        self._connection = connection
        self._hub = hub
        self.asked_at = connection.loop.time()
        self.pinged_at = 0.0
        self.idle: asyncio.TimerHandle | None = None
        """When it is looked at next whether it still follows anything."""
        self.left = asyncio.Event()
        self.empty = asyncio.Event()
        """Set whenever nothing waits in its outbox; cleared by who waits for that."""

    @property
    def heard_at(self) -> float:
        """When anything has come from it."""
        return self._connection.heard_at

    def ping(self) -> bool:
        """Send a ping, between two frames; the library takes the pong for an unsolicited one."""
        if not self.client.paused and not self.client.closed:
            self.client.sink.write(_PING)
            return True
        return False

    def silent(self) -> None:
        """It has not answered; whether its socket still takes bytes is looked at elsewhere."""
        if not self.client.paused and not self.client.closed:
            self._hub.silent(self.client)


class FrontDoor:
    """See the module's docstring. `settle` is called after whatever may have given the hub something to do.

    `admission` says who may come in; None: this process alone decides.
    """

    def __init__(
        self,
        section: GatewaySection,
        context: Context,
        hub: Hub,
        board: StatusBoard,
        products: Mapping[str, int],
        settle: Callable[[], None],
        replay: ReplayDesk | None = None,
        admission: Admission | None = None,
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
        self._admission: Admission = OwnAdmission(section) if admission is None else admission
        self._doorway = Doorway(section, self.counters, context.clock, context.spawn)
        self._turnstile = Turnstile(_TURN_S)
        self._server: Server | None = None
        self._keepalive: Keepalive | None = None
        self._guests: dict[ClientConnection, _Guest] = {}
        self.draining = False
        """True once nobody is taken in any more."""

    async def open(
        self, routes: Mapping[str, Route], prefixes: Mapping[str, Route], listener: socket.socket | None = None
    ) -> None:
        """Listen; PortInUse or BadEndpoint where that is impossible. A `listener` does so already; it becomes ours."""
        section, doorway = self._section, self._doorway
        room = doorway.make_room()
        if room < section.max_clients:
            self._context.log.info(
                "fewer connections than max_clients are possible: the system's limit of open files is lower",
                max_clients=section.max_clients,
                connections=room,
            )
        with listening(section.host, section.port):
            self._server = await serve(
                self._serve,
                section.host if listener is None else None,
                section.port if listener is None else None,
                sock=listener,
                process_request=doorway.bounded(processor(routes, prefixes, WEBSOCKET_PATH)),
                compression=None,
                extensions=[_deflate()] if section.compression else None,
                server_header=None,
                open_timeout=REPLY_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,
                max_size=section.max_request_bytes,
                write_limit=(WRITE_HIGH_BYTES, WRITE_LOW_BYTES),
                create_connection=doorway.connection_class(),
                logger=_quiet_logger(),
                backlog=_BACKLOG,
            )
        self.url = http_url(section.host, self._server.sockets[0].getsockname()[1])
        self._keepalive = Keepalive(section.ping_interval_s, self._guests.values)
        self._keepalive.start()

    async def shut(self) -> None:
        """Take nobody in any more, send everybody away within `drain_s`, close with 1001. Idempotent."""
        server, self.draining = self._server, True
        if server is None:
            return
        server.close(close_connections=False)
        if self._keepalive is not None:
            self._keepalive.close()
        guests = tuple(self._guests.items())
        began = asyncio.get_running_loop().time()
        planned = departures(len(guests), self._section.drain_s)
        await asyncio.gather(
            *(self._send_away(*guest, began, departure) for guest, departure in zip(guests, planned, strict=True))
        )
        for connection in tuple(self._doorway.connections):
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
        connection = cast("Arrival", connection)
        reason = await self._refusal(connection.address)
        if reason:
            self.counters.refused_total[reason] += 1
            await close(connection, CloseCode.TRY_AGAIN_LATER, _REFUSALS[reason])
            return
        try:
            await self._entertain(connection)
        finally:
            self._admission.leave(connection.address)

    async def _refusal(self, address: str) -> str:
        """Why a connection is not taken in; empty: it is, and counted."""
        reason = await self._admission.admit(address)
        if not self.draining:
            return reason
        if not reason:
            self._admission.leave(address)
        return "draining"

    async def _entertain(self, connection: Arrival) -> None:
        self.counters.connections_total += 1
        self._doorway.entered(connection)
        client = self._hub.connect(
            ConnectionSink(connection, self._context.spawn), connection.name, deflate=_deflates(connection)
        )
        guest = self._guests[connection] = _Guest(client, connection, self._hub)
        self._look_whether_idle(connection, guest)
        try:
            await self._converse(connection, guest)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._context.spawn(_fail(error))  # the library would only log it
            raise
        finally:
            del self._guests[connection]
            connection.flow = None  # or it and the client would keep each other
            self._hub.disconnect(client)
            guest.left.set()
            guest.empty.set()
            if guest.idle is not None:
                guest.idle.cancel()
            self.counters.closes_total[_close_code(connection)] += 1

    def _look_whether_idle(self, connection: Arrival, guest: _Guest) -> None:
        timeout = self._section.idle_timeout_s
        if not timeout:
            return
        now = connection.loop.time()
        if guest.client.leaving or self._hub.subscriptions(guest.client):
            guest.asked_at = now
        left = guest.asked_at + timeout - now
        if left > 0:
            guest.idle = connection.loop.call_later(left, self._look_whether_idle, connection, guest)
        else:
            self.counters.policy_closed_total["idle"] += 1
            reason = f"idle: follows nothing, asked nothing for {timeout:g} s"
            self._context.spawn(close(connection, CloseCode.POLICY_VIOLATION, reason))

    async def _converse(self, connection: Arrival, guest: _Guest) -> None:
        section, clock, client, loop = self._section, self._context.clock, guest.client, connection.loop
        bucket = PatientBucket(section.request_rate_per_s, section.request_burst, clock())
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
            async with self._turnstile:
                session.handle(message, clock())
                self._settle()
            guest.asked_at = loop.time()
            if bucket.exhausted:
                self.counters.policy_closed_total["requests"] += 1
                await connection.fail(CloseCode.POLICY_VIOLATION, "too many requests past the rate limit")
                return
            await asyncio.sleep(0)  # what others ask has its turn, however many requests came at once from this one


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


def _deflate() -> ServerPerMessageDeflateFactory:
    """Without context takeover, with small windows both ways."""
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=DEFLATE_WINDOW_BITS,
        client_max_window_bits=DEFLATE_WINDOW_BITS,
    )


def _deflates(connection: ClientConnection) -> bool:
    """True if the client reads the frames that the hub compresses; with a smaller window it is sent plain ones."""
    return any(
        isinstance(extension, PerMessageDeflate) and extension.local_max_window_bits >= DEFLATE_WINDOW_BITS
        for extension in connection.protocol.extensions
    )


async def _fail(error: Exception) -> None:
    raise error


def _close_code(connection: ClientConnection) -> str:
    """The code of whoever closed first (what we sent then is an echo, or 1002); 1006 if nobody did."""
    protocol = connection.protocol
    first = protocol.close_sent or protocol.close_rcvd
    return str(int(first.code)) if first is not None else str(int(CloseCode.ABNORMAL_CLOSURE))


def _quiet_logger() -> "LoggerLike":
    """The library logs each connection, and a traceback for each that fails its handshake: counters say as much."""
    logger = logging.getLogger("lfmesh.gateway.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger
