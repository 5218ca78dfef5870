"""Every TCP connection of the clients' port, and the bounds that hold whoever it is and whatever it sends.

    connects ──► at the door ──whole request──► HTTP reply, and gone
                      │                    └──► WebSocket: a guest (`frontdoor.py`), or refused with 1013
                      └─ sends no whole request in time (408), or is the oldest when there are too many (503): gone

    at the door   at most `connections` more than there may be clients: past that the one that has been there longest
                  has to go, so that a flood of connections can't keep out who does what it came for; where one address
                  may have only so many clients, it may have `per_address` more at the door, and what it opens beyond
                  is cut at once, which costs a sixth of a refusal in words
    files         the process may have open bound all of it: `make_room` raises the system's soft limit as far as needed
    replies       of HTTP, that wait for their readers: `replies_bytes` in all, each `REPLY_TIMEOUT_S` at most
    frames        of one client, of any kind: `FRAMES_PER_REQUEST` times its requests' rate and burst, then 1008
    input         is parsed `SLICE_BYTES` a turn of the loop: a socket may give 256 KiB at once, and 40,000 frames
                  fit into these, which would take the loop for 0.2 s

The `websockets` library does the handshake (bounds of its own: 8 KiB a line, 128 lines) and everything after it.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import Event, State

from lfmesh.config import GatewaySection
from lfmesh.core.admission import party_of
from lfmesh.core.limits import TokenBucket
from lfmesh.observe.http import Processor, http_url
from lfmesh.services.gateway.connection import CLOSE_TIMEOUT_S, ClientConnection
from lfmesh.services.gateway.statistics import ClientCounters

REPLY_TIMEOUT_S = 30.0
FRAMES_PER_REQUEST = 10
SLICE_BYTES = 2048

_OTHER_FILES = 256
"""Of the files that a process may have open so many are left for anything but connections."""
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_RETRY_S = "1"


class DoorLimits(NamedTuple):
    """See the module's docstring."""

    connections: int = 1024
    per_address: int = 64
    replies_bytes: int = 64 * 1024 * 1024


class Doorway:
    """See the module's docstring. `spawn` starts a supervised task."""

    def __init__(
        self,
        section: GatewaySection,
        counters: ClientCounters,
        clock: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        limits: DoorLimits = DoorLimits(),  # noqa: B008 - it is immutable
    ) -> None:
        self.counters = counters
        self.clock = clock
        self.spawn = spawn
        self.connections: set[Arrival] = set()
        """All of them: guests, and who has not got so far or asks for something by HTTP."""
        self._section = section
        self._limits = limits
        self._max_connections = section.max_clients + limits.connections
        self._at_the_door: dict[Arrival, None] = {}
        """In the order of their coming."""
        self._by_party: Counter[str] = Counter()
        self._replies_bytes = 0

    def connection_class(self) -> type[ClientConnection]:
        """What the server makes of each connection."""

        class Here(Arrival):
            door = self

        return Here

    def bounded(self, process: Processor) -> Processor:
        """The same, but for replies that would make too much wait for those who ask for it."""

        async def bounded_process(connection: ServerConnection, request: Request) -> Response | None:
            response = await process(connection, request)
            if response is None or connection.protocol.state is not State.CONNECTING:
                return response
            assert isinstance(connection, Arrival)
            if self._replies_bytes + len(response.body) > self._limits.replies_bytes:
                self.counters.refused_total["replies"] += 1
                response = connection.respond(503, "too many replies wait to be read; try again\n")
                response.headers["Retry-After"] = _RETRY_S
            connection.reply_bytes = len(response.body)
            self._replies_bytes += connection.reply_bytes
            return response

        return bounded_process

    def frames_allowed(self) -> TokenBucket:
        """For a connection that has shaken hands."""
        rate, burst = self._section.request_rate_per_s, self._section.request_burst
        return TokenBucket(FRAMES_PER_REQUEST * rate, FRAMES_PER_REQUEST * burst, self.clock())

    def make_room(self) -> int:
        """See that the process may have as many files open as its connections take; how many there may be of these."""
        self._max_connections = min(self._max_connections, open_files(self._max_connections + _OTHER_FILES))
        return self._max_connections

    def arrived(self, connection: "Arrival") -> bool:
        """False: it is not let in, not even to the door."""
        section = self._section
        of_party = self._by_party[connection.party]
        if 0 < section.max_clients_per_address <= of_party - self._limits.per_address:
            self.counters.refused_total["address"] += 1
            return False
        if len(self.connections) >= self._max_connections:
            self.counters.refused_total["door"] += 1
            if not self._at_the_door:
                return False
            oldest = next(iter(self._at_the_door))
            del self._at_the_door[oldest]
            oldest.turn_away(_TOO_MANY)
        if section.max_clients_per_address:
            self._by_party[connection.party] = of_party + 1
        self.connections.add(connection)
        self._at_the_door[connection] = None
        loop = asyncio.get_running_loop()
        connection.patience = loop.call_later(section.handshake_timeout_s, self._too_late, connection)
        return True

    def entered(self, connection: "Arrival") -> None:
        """It is a guest."""
        self._at_the_door.pop(connection, None)

    def left(self, connection: "Arrival") -> None:
        """It is gone."""
        self.connections.discard(connection)
        self._at_the_door.pop(connection, None)
        self._replies_bytes -= connection.reply_bytes
        if self._section.max_clients_per_address:
            self._by_party[connection.party] -= 1
            if not self._by_party[connection.party]:
                del self._by_party[connection.party]

    def _too_late(self, connection: "Arrival") -> None:
        self.counters.refused_total["handshake"] += 1
        connection.turn_away(_TOO_LATE)


class Arrival(ClientConnection):
    """A connection that knows the door through which it comes."""

    door: Doorway
    address = ""
    """The client's, as the system tells it; empty where it has none."""
    name = ""
    """Address and port."""
    party = ""
    patience: asyncio.TimerHandle | None = None
    """Until its request is there."""
    reply_bytes = 0
    heard_at = 0.0
    """When anything has come from it (the loop's time, s)."""
    _unread = b""
    _frames: TokenBucket | None = None
    _failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has come."""
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address, self.name = peer[0], http_url(peer[0], peer[1]).removeprefix("http://")
        self.party = party_of(self.address)
        if self.door.arrived(self):
            super().connection_made(transport)
            self.recv_messages.resume = self._read_on
        else:
            assert isinstance(transport, asyncio.WriteTransport)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self not in self.door.connections:
            return  # it never got in
        self._stop_waiting()
        self._unread = b""
        self.door.left(self)
        super().connection_lost(exc)
        self.recv_messages.resume = _nothing  # or it would keep us

    def turn_away(self, reply: bytes) -> None:
        """It has to go before it is a guest; whatever it is doing."""
        self._stop_waiting()
        if self.request is None and not self.protocol.eof_sent:
            self.transport.write(reply)
            self.transport.close()
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """What is much is parsed a slice at a time, with turns of the loop between; nothing is read meanwhile."""
        self.heard_at = self.loop.time()
        if self._unread:
            self._unread += data
        elif len(data) > SLICE_BYTES:
            self._unread = data
            self._parse_slice()
        else:
            super().data_received(data)

    def process_event(self, event: Event) -> None:
        """The request, then frames."""
        if self.request is None:
            self._stop_waiting()
        elif self._frames is None:
            self._frames = self.door.frames_allowed()
        elif self._failed:
            return
        elif self._frames.take(self.door.clock()):
            self._failed = True
            self.door.counters.policy_closed_total["frames"] += 1
            self.door.spawn(self.fail(CloseCode.POLICY_VIOLATION, "too many frames"))
            return
        super().process_event(event)

    async def fail(self, code: int, reason: str) -> None:
        """Close with a code at once: nothing that comes from now on is looked at (RFC 6455, 7.1.7).

        Who does not let go of the connection is cut off.
        """
        self._failed = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S), self.send_context():
                self.protocol.fail(code, reason)
                self._read_on()  # to learn when it ends
        except TimeoutError:
            self.transport.abort()
        except ConnectionClosed:
            pass  # that is what was wanted

    def _parse_slice(self) -> None:
        if not self._unread:
            return  # the connection has been lost
        part, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
        super().data_received(part)
        if self._unread:
            self.transport.pause_reading()
            self.loop.call_soon(self._parse_slice)
        elif self._failed or not self.recv_messages.paused:
            self.transport.resume_reading()

    def _read_on(self) -> None:
        """The library has room for more frames."""
        if not self._unread:
            self.transport.resume_reading()

    def _stop_waiting(self) -> None:
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None


def _nothing() -> None:
    pass


def open_files(wanted: int) -> int:
    """Raise the soft limit of files that this process may have open to `wanted`; how many of them may be connections.

    Fewer where the hard limit, which only an administrator can raise (`ulimit -Hn`), is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted - _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError):  # some systems have a bound beside the hard limit
            allowed = soft
    return max(1, allowed - _OTHER_FILES)
