"""PUB/SUB and PUSH/PULL sockets in an asyncio loop.

A ZeroMQ socket's file descriptor is edge-triggered (zmq_getsockopt, ZMQ_FD): it tells once that something has
changed, and any
call on the socket may swallow the telling. So each reader drains until EAGAIN, or until its budget for one turn of
the loop is spent
and then comes again by itself; and each call on a socket that can also receive is followed by a look.

What arrives in one turn is handed over as one list: batches grow under load and are of one when idle.

A link that swallows packets says nothing by itself, and TCP gives up only after minutes. So ZeroMQ's own heartbeats
(ZMTP 3.1, PING and PONG) end a silent connection within a second on both sides, an attempt to connect and the handshake
are bounded likewise, and it connects again. All of that is done by ZeroMQ's own thread: a peer whose loop is stuck
looks well to it. That, beacons show.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import zmq

from lfmesh.errors import BadEndpoint, PortInUse

FramesHandler = Callable[[list[bytes]], None]

_TURN_FRAMES = 512
_TURN_BYTES = 16 * 1024 * 1024
_HEARTBEAT_IVL_MS = 250
_HEARTBEAT_TIMEOUT_MS = 750
_UNACKNOWLEDGED_MS = 1500
_KEEPALIVE_IDLE_S = 5
_KEEPALIVE_PROBES = 3
_CONNECT_TIMEOUT_MS = 500
_HANDSHAKE_IVL_MS = 1000
_RECONNECT_IVL_MS = 20
_RECONNECT_IVL_MAX_MS = 500


@dataclass(slots=True)
class SocketCounters:
    """What one socket has done since it was made; `dropped` could not be queued (high-water mark or no peer)."""

    messages: int = 0
    bytes: int = 0
    dropped: int = 0


class Transport:
    """A process's ZeroMQ context. Make sockets with it inside a running loop; `close` closes them all.

    `max_message_bytes` bounds what a peer can make us hold in one message.
    """

    def __init__(self, max_message_bytes: int = 64 * 1024 * 1024) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 4096)
        self._max_message_bytes = max_message_bytes
        self._sockets: list[Socket] = []

    def socket(self, kind: int, hwm: int) -> zmq.Socket[bytes]:
        """A bare socket with the mesh's options; the classes of this package use it."""
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, hwm)
        socket.setsockopt(zmq.RCVHWM, hwm)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        if kind in (zmq.DEALER, zmq.ROUTER):
            socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_IVL_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT_MS)
        else:
            # No heartbeats where a receive queue can be full: libzmq 4.3.5 aborts on one that meets a peer's hanging up
            # (its issues 3937, 4364, 4767). The system ends what is not acknowledged; receivers miss beacons.
            socket.setsockopt(zmq.TCP_MAXRT, _UNACKNOWLEDGED_MS)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, _KEEPALIVE_PROBES)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_IVL_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_IVL_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_IVL_MAX_MS)
        return socket

    def adopt(self, socket: "Socket") -> None:
        """Close this socket with the transport."""
        self._sockets.append(socket)

    def release(self, socket: "Socket") -> None:
        """The socket has been closed by itself."""
        if socket in self._sockets:
            self._sockets.remove(socket)

    def close(self, flush_s: float = 0.0) -> None:
        """Close every socket; what is queued for sending gets up to `flush_s` to leave."""
        for socket in tuple(self._sockets):
            socket.close(flush_s)
        self._context.term()

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Socket:
    """What all sockets share: bind, connect, disconnect, close, and the drain of what arrives."""

    def __init__(self, transport: Transport, kind: int, hwm: int) -> None:
        self.counters = SocketCounters()
        self._transport = transport
        self._socket = transport.socket(kind, hwm)
        self._fd = int(self._socket.get(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._look_due = False
        self._closed = False
        transport.adopt(self)

    def bind(self, endpoint: str) -> str:
        """Bind; returns the endpoint with the port that the system chose where 0 was asked for.

        PortInUse if somebody else holds it, BadEndpoint if it is no address of this machine.
        """
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise PortInUse(
                    f"{endpoint} is in use by another process; choose another port or stop that one"
                ) from error
            raise BadEndpoint(f"cannot listen on {endpoint}: {error.strerror}") from error
        self._look()
        return bytes(self._socket.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    def connect(self, endpoint: str) -> None:
        """Connect, now or as soon as the peer is there; ZeroMQ reconnects by itself."""
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise BadEndpoint(f"cannot connect to {endpoint}: {error.strerror}") from error
        self._look()

    def disconnect(self, endpoint: str) -> None:
        """Undo `connect`; what is queued for that peer is dropped."""
        try:
            self._socket.disconnect(endpoint)
        except zmq.ZMQError as error:
            raise BadEndpoint(f"cannot disconnect from {endpoint}: {error.strerror}") from error
        self._look()

    def close(self, flush_s: float = 0.0) -> None:
        """Close; idempotent. What is queued for sending gets up to `flush_s` to leave."""
        if self._closed:
            return
        self._closed = True
        if self._reading:
            self._loop.remove_reader(self._fd)
        self._socket.close(linger=int(flush_s * 1000))
        self._transport.release(self)

    def _replace(self, kind: int, hwm: int) -> None:
        """A new ZeroMQ socket in place of this one, which is closed with all that it has queued."""
        self._loop.remove_reader(self._fd)
        self._reading = False
        self._socket.close(linger=0)
        self._socket = self._transport.socket(kind, hwm)
        self._fd = int(self._socket.get(zmq.FD))

    def _start_reading(self) -> None:
        self._reading = True
        self._loop.add_reader(self._fd, self._readable)
        self._look()

    def _look(self) -> None:
        """Look for arrivals in the next turn of the loop."""
        if self._reading and not self._look_due and not self._closed:
            self._look_due = True
            self._loop.call_soon(self._scheduled_look)

    def _scheduled_look(self) -> None:
        self._look_due = False
        self._readable()

    def _readable(self) -> None:
        if not self._closed and self._drain():
            self._look()

    def _drain(self) -> bool:
        """Take what has arrived; True if the turn's budget ended it."""
        raise NotImplementedError

    def _send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self.counters.dropped += 1
            return False
        self.counters.messages += 1
        self.counters.bytes += len(frame)
        return True


class _Receiver(Socket):
    """A socket that hands over single-frame messages in lists, of at most `turn_frames` or about `turn_bytes`."""

    def __init__(
        self,
        transport: Transport,
        kind: int,
        hwm: int,
        on_frames: FramesHandler,
        turn_bytes: int = _TURN_BYTES,
        turn_frames: int = _TURN_FRAMES,
    ) -> None:
        super().__init__(transport, kind, hwm)
        self._on_frames = on_frames
        self._turn_bytes = turn_bytes
        self._turn_frames = turn_frames

    def _drain(self) -> bool:
        frames: list[bytes] = []
        size, bound = 0, self._turn_bytes
        receive, append = self._socket.recv, frames.append
        more = True
        try:
            for _ in range(self._turn_frames):
                frame = receive(zmq.NOBLOCK)
                append(frame)
                size += len(frame)
                if size >= bound:
                    break
        except zmq.Again:
            more = False
        if frames:
            self.counters.messages += len(frames)
            self.counters.bytes += size
            self._on_frames(frames)
        return more


class Publisher(_Receiver):
    """XPUB that binds. `on_subscription(topic, subscribed)` tells of each subscriber's wish, repeated ones too."""

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        *,
        hwm: int,
        on_subscription: Callable[[bytes, bool], None] | None = None,
    ) -> None:
        super().__init__(transport, zmq.XPUB, hwm, self._subscriptions)
        self._on_subscription = on_subscription
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.endpoint = self.bind(endpoint)
        self._start_reading()

    def publish(self, frame: bytes) -> None:
        """Send to whoever has subscribed; dropped, per subscriber, at the high-water mark."""
        self._send(frame)

    def settle(self) -> None:
        """Call after a run of `publish`: a subscription may have arrived meanwhile."""
        self._look()

    def _subscriptions(self, frames: list[bytes]) -> None:
        if self._on_subscription is not None:
            for frame in frames:
                if frame[:1] in (b"\0", b"\1"):
                    self._on_subscription(frame[1:], frame[:1] == b"\1")


class Subscriber(_Receiver):
    """SUB that connects to any number of publishers; a turn of the loop takes at most `turn_frames`."""

    def __init__(
        self,
        transport: Transport,
        topics: Iterable[bytes],
        on_frames: FramesHandler,
        *,
        hwm: int,
        turn_frames: int = _TURN_FRAMES,
    ) -> None:
        super().__init__(transport, zmq.SUB, hwm, on_frames, turn_frames=turn_frames)
        for topic in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._start_reading()

    def subscribe(self, topic: bytes) -> None:
        """Add a topic prefix."""
        self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._look()

    def unsubscribe(self, topic: bytes) -> None:
        """Remove a topic prefix."""
        self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        self._look()

    def reconnect(self, endpoint: str) -> None:
        """A new connection to one of the publishers, whatever state the present one is in; nothing is queued for it."""
        self.disconnect(endpoint)
        self.connect(endpoint)


class Pusher(Socket):
    """PUSH that connects to one PULL. Queues only towards a completed connection, up to the high-water mark."""

    def __init__(self, transport: Transport, endpoint: str, *, hwm: int) -> None:
        super().__init__(transport, zmq.PUSH, hwm)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self.endpoint = endpoint
        self.connect(endpoint)

    def push(self, frame: bytes) -> bool:
        """Queue a message; False (and counted) when the queue is full or the peer is not there."""
        return self._send(frame)


class Puller(_Receiver):
    """PULL that binds. `turn_bytes` bounds what one turn of the loop takes: large batches make long turns."""

    def __init__(
        self, transport: Transport, endpoint: str, on_frames: FramesHandler, *, hwm: int, turn_bytes: int = _TURN_BYTES
    ) -> None:
        super().__init__(transport, zmq.PULL, hwm, on_frames, turn_bytes)
        self.endpoint = self.bind(endpoint)
        self._start_reading()
