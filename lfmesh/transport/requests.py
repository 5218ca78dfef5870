"""Requests and replies: DEALER → ROUTER with a correlation id.

    request   id:8 bytes | payload
    reply     id:8 bytes | header | frame*

Replies come in any order; one that comes after its deadline is dropped and counted.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence

import zmq

from lfmesh.errors import RequestTimeout
from lfmesh.transport.sockets import Socket, Transport

_ID = struct.Struct("<Q")
_TURN_BUDGET = 256

OnReply = Callable[[Sequence[bytes] | None], None]


class Responder:
    """The way back to who asked; call `reply` once, now or later."""

    __slots__ = ("_id", "_identity", "_server")

    def __init__(self, server: "Server", identity: bytes, request_id: bytes) -> None:
        self._server = server
        self._identity = identity
        self._id = request_id

    def reply(self, header: bytes, frames: Sequence[bytes] = ()) -> None:
        """Send the answer; dropped and counted when the asker is gone or does not read."""
        self._server.send([self._identity, self._id, header, *frames])


class Server(Socket):
    """ROUTER that binds; each request goes to `on_request(payload, responder)`."""

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        on_request: Callable[[bytes, Responder], None],
        *,
        hwm: int = 10_000,
    ) -> None:
        super().__init__(transport, zmq.ROUTER, hwm)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._on_request = on_request
        self.endpoint = self.bind(endpoint)
        self._start_reading()

    def send(self, parts: list[bytes]) -> None:
        """Send one routed reply; `Responder` uses it."""
        if self._closed:
            return
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError):  # EHOSTUNREACH: the asker is gone
            self.counters.dropped += 1
        else:
            self.counters.messages += 1
        self._look()

    def _drain(self) -> bool:
        for _ in range(_TURN_BUDGET):
            if self._closed:  # by what the last message led to
                return False
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            if len(parts) == 3 and len(parts[1]) == _ID.size:
                self._on_request(parts[2], Responder(self, parts[0], parts[1]))
            else:
                self.counters.dropped += 1
        return True


class Requester(Socket):
    """DEALER that connects to one ROUTER; at most `max_pending` requests are under way.

    `unanswered` are the requests in a row that were not answered in time.
    """

    def __init__(self, transport: Transport, endpoint: str, *, max_pending: int = 1000) -> None:
        super().__init__(transport, zmq.DEALER, max_pending)
        self._pending: dict[bytes, tuple[OnReply, asyncio.TimerHandle]] = {}
        self._max_pending = max_pending
        self._next_id = 0
        self.unanswered = 0
        self.endpoint = endpoint
        self.connect(endpoint)
        self._start_reading()

    def ask(self, payload: bytes, on_reply: OnReply, timeout_s: float) -> None:
        """Send a request; `on_reply` gets [header, frame…], or None when no answer came in time or none can be awaited.

        It is called later, never from inside this call.
        """
        self._next_id += 1
        request_id = _ID.pack(self._next_id)
        if self._closed or len(self._pending) >= self._max_pending or not self._send_request(request_id, payload):
            self.counters.dropped += 1
            self._loop.call_soon(on_reply, None)
            return
        timer = self._loop.call_later(timeout_s, self._expire, request_id)
        self._pending[request_id] = (on_reply, timer)
        self._look()

    async def request(self, payload: bytes, timeout_s: float) -> Sequence[bytes]:
        """[header, frame…] of the answer, or RequestTimeout."""
        future: asyncio.Future[Sequence[bytes] | None] = self._loop.create_future()

        def settle(reply: Sequence[bytes] | None) -> None:
            if not future.done():
                future.set_result(reply)

        self.ask(payload, settle, timeout_s)
        reply = await future
        if reply is None:
            raise RequestTimeout(f"no answer from {self.endpoint} within {timeout_s} s")
        return reply

    def close(self, flush_s: float = 0.0) -> None:
        """Close; whoever waits for an answer gets None."""
        super().close(flush_s)
        self._give_up_pending()

    def reconnect(self) -> None:
        """A new socket in place of this one: what the peer was asked and has not answered gets None, now.

        What waits in a socket whose peer is away would else flood it when it comes back.
        """
        if self._closed:
            return
        self.unanswered = 0
        self._replace(zmq.DEALER, self._max_pending)
        self.connect(self.endpoint)
        self._start_reading()
        self._give_up_pending()

    def _give_up_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for on_reply, timer in pending.values():
            timer.cancel()
            self._loop.call_soon(on_reply, None)

    def _send_request(self, request_id: bytes, payload: bytes) -> bool:
        try:
            self._socket.send_multipart([request_id, payload], zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.counters.messages += 1
        return True

    def _expire(self, request_id: bytes) -> None:
        on_reply, _ = self._pending.pop(request_id)
        self.unanswered += 1
        on_reply(None)

    def _drain(self) -> bool:
        for _ in range(_TURN_BUDGET):
            if self._closed:  # by what the last message led to
                return False
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self.unanswered = 0
            waiting = self._pending.pop(parts[0], None)
            if waiting is None:
                self.counters.dropped += 1
                continue
            on_reply, timer = waiting
            timer.cancel()
            on_reply(parts[1:])
        return True
