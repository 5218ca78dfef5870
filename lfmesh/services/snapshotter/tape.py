"""What goes into the journal, and where it stands in each stream.

Every message that the replica takes as next in order goes in, in the frame in which it was published. Where a state
took the place of what can't be had any more, it goes in as a snapshot, so that the tape shows the hole and goes on from
there.
"""

from collections.abc import Callable, Sequence

from lfmesh.core import codec, encode, topics
from lfmesh.core.archive import AHEAD_NS
from lfmesh.core.codec import Flags, Header
from lfmesh.core.state import StreamState
from lfmesh.types import InputPosition, Position, StreamKey

_SNAPSHOT = int(Flags.SNAPSHOT)


class _Place:
    """Where the tape of one stream ends, the stream's time there (ns, 0: unknown), and its bytes since it was cut."""

    __slots__ = ("bytes", "epoch", "seq", "time")

    def __init__(self) -> None:
        self.bytes = 0
        self.epoch = 0
        self.seq = 0
        self.time = 0


class Tape:
    """One shard's; `append` takes frames for the journal, on the loop's thread."""

    def __init__(self, shard: int, append: Callable[[StreamKey, bytes], None]) -> None:
        self._shard = shard
        self._append = append
        self._places: dict[StreamKey, _Place] = {}
        self.begins = False
        """An epoch has begun since somebody has set this to False: where it begins is not to be lost."""

    def published(self, key: StreamKey, header: Header, count: int, frame: bytes) -> None:
        """These `count` messages from header.first_seq on are next in order."""
        place = self._places.get(key) or self._place(key)
        place.epoch = header.epoch
        if header.flags & _SNAPSHOT:
            place.seq = header.first_seq
            self.begins = True
        else:
            place.seq = header.first_seq + count - 1
        if header.ts_event > place.time:
            place.time = max(place.time, min(header.ts_event, header.ts_publish + AHEAD_NS))
        place.bytes += len(frame)
        self._append(key, frame)

    def goes_on(self, key: StreamKey, end: Position, time: int) -> None:
        """The journal, or what was cut from it, ends there: an earlier process has written it."""
        place = self._place(key)
        place.epoch, place.seq = end
        place.time = max(place.time, time)

    def torn(self, state: StreamState, parts: Sequence[bytes], instance: int, source: InputPosition) -> None:
        """The state at its position takes the place of everything before it that the tape has not got."""
        key, position = state.key, state.position
        place = self._place(key)
        before = Position(place.epoch, place.seq)
        if before >= position:  # what was there is void, and this does not follow on it
            before = Position(0, 0)
        header = Header(_SNAPSHOT, state.term, instance, source, *position, *before, place.time, state.ts)
        messages = encode.snapshot(*key, position, state.ts, "gap" if before.epoch else "subscribe", parts)
        place.epoch, place.seq = position
        self._append(key, codec.pack(topics.market_data(self._shard, key), header, messages))

    def position(self, key: StreamKey) -> Position | None:
        """Where the tape of a stream ends; None where there is none."""
        place = self._places.get(key)
        return None if place is None or not place.epoch else Position(place.epoch, place.seq)

    def time(self, key: StreamKey) -> int:
        """The stream's time there (ns), 0 where it is unknown."""
        place = self._places.get(key)
        return 0 if place is None else place.time

    @property
    def newest_time(self) -> int:
        """The newest time of any stream (ns), 0 where none is known."""
        return max((place.time for place in self._places.values()), default=0)

    def cut(self) -> None:
        """Everything up to here is being cut."""
        for place in self._places.values():
            place.bytes = 0

    @property
    def largest_bytes(self) -> int:
        """What that stream has brought of which most has come since the last `cut`."""
        return max((place.bytes for place in self._places.values()), default=0)

    def _place(self, key: StreamKey) -> _Place:
        return self._places.setdefault(key, _Place())
