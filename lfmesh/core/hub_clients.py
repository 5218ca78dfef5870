"""A client as the fan-out sees it: what it follows, what waits to be sent to it, and where that goes.

    live       gets the stream's messages with its group, as they are published
    joining    is on its way to live: waits for something, or has a queue that is pulled as the socket drains

The outbox holds what was made for the client while its socket did not take it. It is bounded: past the soft bound the
client is conflated, which makes all that it follows joins again. What is pulled is not in it, since it can wait where
it is.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from lfmesh.core.hub_snapshots import Holding
from lfmesh.types import Position, SnapshotReason

if TYPE_CHECKING:
    from lfmesh.core.hub_streams import Group, Lane, Stream

OUTBOX_CHUNK_BYTES = 256 * 1024
"""A drained socket is given about this much at once."""


class Sink(Protocol):
    """Where a client's bytes go. Nothing here waits."""

    def write(self, data: bytes) -> None:
        """Queue whole frames; silently dropped when the connection is closing."""

    def buffered(self) -> int:
        """Bytes that were written and that the socket has not taken."""

    def close(self, code: int, reason: str) -> None:
        """Begin to close the connection; nothing is written any more."""


Awaited = Literal["snapshot", "position", "retransmission", "archive", "lane"]
AWAITED: tuple[Awaited, ...] = get_args(Awaited)


@dataclass(slots=True, eq=False)
class Room:
    """For answers that are in clients' queues: at most about so many bytes of them."""

    max_bytes: int
    bytes: int = 0

    @property
    def full(self) -> bool:
        """True while no more is to be asked for."""
        return self.bytes >= self.max_bytes


@dataclass(slots=True, eq=False)
class Piece:
    """What an answer of a publisher's ring, or of an archive, keeps alive while `users` joins have frames of it in
    their queues."""

    size: int
    room: Room
    users: int = 0


@dataclass(slots=True, eq=False)
class Join:
    """One stream on its way to live for one client.

    `waits` is what it waits for; None: `queue` is being sent, and after it what the ring has after `cursor`.
    `holding` is what the client holds at least, None while it holds nothing of the stream; it is `gives` when the first
    of the queue has been sent. `target` is the position to go on from.
    """

    client: "Client"
    stream: "Stream"
    reason: SnapshotReason
    waits: Awaited | None
    holding: Holding | None = None
    target: Position | None = None
    deadline: int = 0
    queue: deque[bytes] = field(default_factory=deque)
    cursor: Position | None = None
    interval_ns: int = 0
    """At most one message per so long is wanted (`hub_lanes`); 0: every message."""
    whole: bool = False
    """True if the client has all up to `holding`, and no snapshot of it is under way."""
    skips: bool = False
    """What was missed meanwhile is not to be sent: when its turn comes it wants the state, if there is a newer one."""
    state_bytes: int = 0
    """Size of the snapshot with which it began; 0: it goes on from a position, and is to get everything."""
    gives: Holding | None = None
    piece: Piece | None = None
    """The answer to a WantOlder or WantArchive of which there are frames in its queue."""
    archived_bytes: int = 0
    """What it has been given from the archive."""
    in_archive: bool = False
    """True while the archive has more of what comes next than was given."""
    not_archived: Position | None = None
    """No archive has what follows this position."""
    late: Position | None = None
    """Where what the publisher still has of its trades begins, if that is after `target`."""
    served: bool = False
    """True when it has been counted what serves it."""
    sent: bool = False
    """True when something of the stream has been sent since it began."""
    pulling: bool = False
    """True while it stands in the client's `pulls`."""

    def begin_anew(self, holding: Holding | None) -> None:
        """What the client gets next is a snapshot; `holding` is what it holds of the stream, if anything is known."""
        if self.sent and self.reason != "conflated":
            self.reason = "gap"
        if holding is not None and (self.sent or self.holding is not None):
            self.holding = holding


@dataclass(slots=True, eq=False)
class Client:
    """One connection. Only the hub changes it, but for `paused`, which is the socket's to tell (`Hub.paused`)."""

    sink: Sink
    number: int
    name: str = ""
    deflate: bool = False
    """True if it takes compressed messages."""
    live: "dict[Stream, Lane]" = field(default_factory=dict)
    joins: "dict[Stream, Join]" = field(default_factory=dict)
    pulls: deque[Join] = field(default_factory=deque)
    group: "Group | None" = None
    pending: deque[bytes] = field(default_factory=deque)
    pending_bytes: int = 0
    paused: bool = False
    paused_at: int = 0
    buffered: int = 0
    progress_at: int = 0
    """While paused: what its socket's buffer held when it was looked at, and since when it holds no less."""
    conflations: int = 0
    """How often it was conflated."""
    throttled: bool = False
    """True while it has had all that its rate allows."""
    used_messages: int = 0
    used_bytes: int = 0
    base_messages: int = 0
    base_bytes: int = 0
    """What it was sent, where that is metered (`Fanout.settle`), and its group's counts up to which that is in it."""
    closed: bool = False
    leaving: bool = False
    """True when it is sent nothing any more but what waits for it."""
    pieces: int = 0
    """Answers to a WantOlder or WantArchive of which there are frames in its queues."""
    quiet: int = 0
    """Heartbeat ticks since something was sent."""

    @property
    def conflating(self) -> bool:
        """True from a conflation on until it is live again on all that it was live on."""
        return any(join.reason == "conflated" for join in self.joins.values())

    @property
    def subscriptions(self) -> int:
        """How many streams it follows or is joining."""
        return len(self.live) + len(self.joins)
