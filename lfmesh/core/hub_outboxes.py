"""What waits for clients whose sockets take no more, and what becomes of those for whom too much does.

paused ──► everything that is made for the client is held in its outbox
       ──► past the soft bound, of bytes or time, it is conflated: nothing of the market is held any more
       ──► past the hard bound, or when its socket has taken nothing at all for long, it is closed with 4001
drained ─► the outbox goes out; then what it is joining is pulled (hub_pulls)
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from lfmesh.core.hub_clients import OUTBOX_CHUNK_BYTES, Client

SLOW_CONSUMER = 4001
_TURN_STREAMS = 100
_TRICKLE = 4
"""Whose buffer has not drained in so many times what a socket may take nothing takes too little."""


class OutboxLimits(NamedTuple):
    """Per client, its outbox and its socket's buffer together. `stall_ns`: how long its socket may take nothing."""

    soft_bytes: int
    soft_age_ns: int
    hard_bytes: int
    stall_ns: int


@dataclass(slots=True)
class OutboxCounters:
    """Clients closed, and clients conflated, by why."""

    closes: dict[str, int] = field(default_factory=lambda: {"slow_outbox": 0, "slow_stalled": 0, "slow_silent": 0})
    conflations: dict[str, int] = field(default_factory=lambda: {"bytes": 0, "age": 0, "rate": 0})


class Outboxes:
    """See the module's docstring. `conflate` makes joins of all that a client follows, `disconnect` forgets it."""

    def __init__(
        self, limits: OutboxLimits, conflate: Callable[[Client], bool], disconnect: Callable[[Client], None]
    ) -> None:
        self.bytes = 0
        self.counters = OutboxCounters()
        self._limits = limits
        self._conflate = conflate
        self._disconnect = disconnect
        self._paused: dict[Client, None] = {}
        self._late: dict[Client, str] = {}

    @property
    def paused(self) -> int:
        """How many clients' sockets take no more for now."""
        return len(self._paused)

    def give(self, client: Client, frame: bytes) -> None:
        """A frame for the client alone: to its socket, or behind what waits for it."""
        client.quiet = 0
        if client.paused or client.pending:
            self.hold(client, frame)
        else:
            client.sink.write(frame)

    def hold(self, client: Client, data: bytes) -> None:
        """This can't be written to the client now."""
        if client.closed:
            return
        client.pending.append(data)
        client.pending_bytes += len(data)
        self.bytes += len(data)
        waiting = client.pending_bytes + client.sink.buffered()
        if waiting > self._limits.soft_bytes and client.live:
            self._late.setdefault(client, "bytes")
        elif waiting > self._limits.hard_bytes:
            self.close(client, "slow_outbox")

    def pause(self, client: Client, now: int) -> None:
        """The client's socket takes no more for now."""
        client.paused = True
        client.paused_at = client.progress_at = now
        client.buffered = client.sink.buffered()
        if not client.closed:
            self._paused[client] = None

    def drain(self, client: Client) -> None:
        """The client's socket takes bytes again: what waits for it goes out, as far as that is so."""
        client.paused = False
        self._paused.pop(client, None)
        pending = client.pending
        while pending and not client.paused:
            pieces = _take(pending, OUTBOX_CHUNK_BYTES)
            size = sum(map(len, pieces))
            client.pending_bytes -= size
            self.bytes -= size
            client.sink.write(b"".join(pieces))

    def forget(self, client: Client) -> None:
        """The client is gone."""
        self._paused.pop(client, None)
        self._late.pop(client, None)
        self.bytes -= client.pending_bytes
        client.pending.clear()
        client.pending_bytes = 0

    def look(self, now: int) -> None:
        """Close and conflate for whom it is time; call it several times a second."""
        limits = self._limits
        for client in tuple(self._paused):
            buffered = client.sink.buffered()
            if buffered < client.buffered:
                client.progress_at = now
            client.buffered = buffered
            if now - client.progress_at > limits.stall_ns or now - client.paused_at > _TRICKLE * limits.stall_ns:
                self.close(client, "slow_stalled")
            elif client.live and now - client.paused_at > limits.soft_age_ns:
                self._late.setdefault(client, "age")

    @property
    def late(self) -> bool:
        """True while somebody waits to be conflated."""
        return bool(self._late)

    def conflate_some(self) -> None:
        """Conflate those for whom it is time, a few in a turn of the loop: who is slow alike is so at the same moment,
        and each is as many joins as it follows streams."""
        work = 0
        while self._late and work < _TURN_STREAMS:
            client = next(iter(self._late))
            why = self._late.pop(client)
            if client.paused:  # or it has caught up meanwhile
                work += len(client.live)
                self.conflate(client, why)

    def conflate(self, client: Client, why: str) -> None:
        """The client does not keep up with what it follows."""
        if self._conflate(client):
            self.counters.conflations[why] += 1
            client.conflations += 1

    def close(self, client: Client, why: str) -> None:
        """Give the client up."""
        self.counters.closes[why] += 1
        client.sink.close(SLOW_CONSUMER, "slow consumer")
        self._disconnect(client)


def _take(pending: deque[bytes], size: int) -> list[bytes]:
    pieces = []
    taken = 0
    while pending and taken < size:
        piece = pending.popleft()
        pieces.append(piece)
        taken += len(piece)
    return pieces
