"""Requests to normalizers and snapshotters: one a stream and kind at a time, so many at once, first come, first served.

A state is asked for once, whoever wants it: the stream's own recovery, joining clients, somebody over HTTP. Archives
take their time, and have a bound of their own: what waits for them keeps nothing else waiting.
"""

from typing import Literal, NamedTuple

from lfmesh.messages import RetransmitRequest, SnapshotRequest, encode
from lfmesh.types import Channel, Position, StreamKey

MAX_UNDER_WAY = 64
MAX_ARCHIVE_UNDER_WAY = 3
"""Fewer than a snapshotter answers at once: there are other gateways, and people who ask for moments."""

PIECE_BYTES = 1024 * 1024
"""What is asked for at a time for clients that go on from before our ring."""

Kind = Literal["retransmit", "older", "archive", "snapshot"]
"""retransmit: for the stream's own gap; older: for clients that go on from before our ring; archive: from before the
publisher's; snapshot: its state."""
Party = Literal["feed", "hub", "http"]


class Ask(NamedTuple):
    """One request; `attempt` (from 1) tells whose turn it is to be asked for a state, or what is archived."""

    kind: Kind
    key: StreamKey
    after: Position | None = None
    attempt: int = 1


class Asks:
    """What waits to be sent and what is under way; bounded by the number of streams."""

    def __init__(self, max_under_way: int = MAX_UNDER_WAY, max_archive: int = MAX_ARCHIVE_UNDER_WAY) -> None:
        self._max_under_way = max_under_way
        self._max_archive = max_archive
        self._waiting: dict[tuple[Kind, StreamKey], Ask] = {}
        self._under_way: set[tuple[Kind, StreamKey]] = set()
        self._parties: dict[StreamKey, set[Party]] = {}

    @property
    def waiting(self) -> int:
        """Requests that have not been sent."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Requests that have been sent and not been answered."""
        return len(self._under_way)

    def add(self, ask: Ask, party: Party) -> None:
        """This is to be asked. A state that is under way is for this party, too; else the last wish of a kind holds."""
        name = (ask.kind, ask.key)
        if ask.kind == "snapshot":
            self._parties.setdefault(ask.key, set()).add(party)
            if name in self._under_way:
                return
        self._waiting[name] = ask

    def take(self) -> list[Ask]:
        """What may be sent now; under way until `settle`."""
        if not self._waiting:
            return []
        archive = sum(kind == "archive" for kind, _ in self._under_way)
        rooms = {True: self._max_archive - archive, False: self._max_under_way - (len(self._under_way) - archive)}
        taken = []
        for name, ask in self._waiting.items():
            archived = ask.kind == "archive"
            if rooms[archived] > 0 and name not in self._under_way:
                rooms[archived] -= 1
                taken.append(ask)
        for ask in taken:
            del self._waiting[ask.kind, ask.key]
            self._under_way.add((ask.kind, ask.key))
        return taken

    def settle(self, ask: Ask) -> set[Party]:
        """It was answered, or will not be; who wanted the state, if it was one."""
        self._under_way.discard((ask.kind, ask.key))
        return self._parties.pop(ask.key, set()) if ask.kind == "snapshot" else set()


def request(ask: Ask) -> bytes:
    """What is sent."""
    product, channel = ask.key
    if ask.kind == "snapshot" or ask.after is None:
        return encode(SnapshotRequest(product, channel))
    if ask.kind == "retransmit":
        return encode(RetransmitRequest(product, channel, *ask.after))
    or_oldest = ask.kind == "archive" or channel is Channel.TRADES
    return encode(RetransmitRequest(product, channel, *ask.after, PIECE_BYTES, or_oldest))
