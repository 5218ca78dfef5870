"""What goes into the journal, and where it stands in each stream.

Every message that the replica takes as next in order goes in, in the frame in which it was published. Where a state
took the place of what can't be had any more, it goes in as a snapshot, so that the tape shows the hole and goes on from
there.

Such a snapshot must not get a time within the hole: whoever asks for a moment in it would see the future. Its time is
the newest of the venue once something is known that was published no earlier than the state; until then it is held
back: after a start nobody knows how long the hole is. Its own stream's next frame never comes before it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lfmesh.core import codec, encode, topics
from lfmesh.core.archive import AHEAD_NS
from lfmesh.core.codec import Flags, Header
from lfmesh.core.state import StreamState
from lfmesh.types import InputPosition, Position, StreamKey

HELD_BYTES = 8 * 1024 * 1024
"""States that wait for a time may be so large together; past it the oldest do not wait any longer."""

_SNAPSHOT = int(Flags.SNAPSHOT)
_NEAR_NS = 86_400_000_000_000
"""A venue whose newest known time is within this of a publisher's clock lives in the present: no recording is played.
It is wide since after a start the newest time is that of before."""


class _Held(NamedTuple):
    """A state that waits for its time; the header has none. `before` is where the tape ends without it."""

    header: Header
    messages: Sequence[bytes]
    before: Position
    size: int


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
        self._newest = 0
        self._heard = 0  # when the newest frame with a time of the venue was published; 0: none has come yet
        self._held: dict[StreamKey, _Held] = {}
        self._held_bytes = 0
        self._due = 0  # the first of what is held can go when something is heard that was published then
        self._awaited: set[StreamKey] = set()
        self.begins = False
        """An epoch has begun since somebody has set this to False: where it begins is not to be lost."""

    def published(self, key: StreamKey, header: Header, count: int, frame: bytes) -> None:
        """These `count` messages from header.first_seq on are next in order."""
        if key in self._awaited:
            if not header.flags & _SNAPSHOT:
                self._hear(min(header.ts_event, header.ts_publish + AHEAD_NS), header.ts_publish)
                return
            self._awaited.discard(key)
        place = self._places.get(key) or self._place(key)
        time = min(header.ts_event, header.ts_publish + AHEAD_NS)
        if key in self._held:
            self._release(key, time or self._guess(key))
        place.epoch = header.epoch
        if header.flags & _SNAPSHOT:
            place.seq = header.first_seq
            self.begins = True
        else:
            place.seq = header.first_seq + count - 1
        if time > place.time:
            place.time = time
        place.bytes += len(frame)
        self._append(key, frame)
        if time:
            self._hear(time, header.ts_publish)

    def goes_on(self, key: StreamKey, end: Position, time: int) -> None:
        """The journal, or what was cut from it, ends there: an earlier process has written it."""
        place = self._place(key)
        place.epoch, place.seq = end
        place.time = max(place.time, time)
        self._newest = max(self._newest, place.time)

    def awaits(self, keys: Iterable[StreamKey]) -> None:
        """What is published of these streams is not taken until their states are (`torn`), or one begins an epoch."""
        self._awaited.update(keys)

    def is_awaited(self, key: StreamKey) -> bool:
        """True while the stream's state is to come first."""
        return key in self._awaited

    def given_up(self, key: StreamKey) -> None:
        """The stream has no state: none is to come first."""
        self._awaited.discard(key)

    def torn(self, state: StreamState, parts: Sequence[bytes], instance: int, source: InputPosition) -> None:
        """The state at its position takes the place of everything before it that the tape has not got."""
        key, position = state.key, state.position
        self._awaited.discard(key)
        place = self._place(key)
        waited = self._drop(key)
        end = before = Position(place.epoch, place.seq) if waited is None else waited.before
        if before >= position:  # what was there is void, and this does not follow on it
            before = Position(0, 0)
        header = Header(_SNAPSHOT, state.term, instance, source, *position, *before, 0, state.ts)
        messages = encode.snapshot(*key, position, state.ts, "gap" if before.epoch else "subscribe", parts)
        place.epoch, place.seq = position
        held = self._held[key] = _Held(header, messages, end, sum(map(len, messages)))
        self._held_bytes += held.size
        if state.ts <= self._heard:
            self._release(key, self._newest)
            return
        self._due = state.ts if len(self._held) == 1 else min(self._due, state.ts)
        while self._held_bytes > HELD_BYTES:
            oldest = next(iter(self._held))
            self._release(oldest, self._guess(oldest))

    def settle(self) -> None:
        """What waits for a time does not wait any longer."""
        for key in list(self._held):
            self._release(key, self._guess(key))

    def position(self, key: StreamKey) -> Position | None:
        """Where the tape of a stream ends; None where there is none."""
        place = self._places.get(key)
        return None if place is None or not place.epoch else Position(place.epoch, place.seq)

    def time(self, key: StreamKey) -> int:
        """The stream's time there (ns), 0 where it is unknown.

        A state of it that waits for a time is written now: whoever asks keeps the stream's state as of this time, which
        must not be ahead of the journal.
        """
        if key in self._held:
            self._release(key, self._guess(key))
        place = self._places.get(key)
        return 0 if place is None else place.time

    @property
    def newest_time(self) -> int:
        """The newest time of any stream (ns), 0 where none is known."""
        return self._newest

    def cut(self) -> None:
        """Everything up to here is being cut."""
        for place in self._places.values():
            place.bytes = 0

    @property
    def largest_bytes(self) -> int:
        """What that stream has brought of which most has come since the last `cut`."""
        return max((place.bytes for place in self._places.values()), default=0)

    def _hear(self, time: int, published: int) -> None:
        """The venue's time (ns; 0: not told) in something that was published then."""
        if not time:
            return
        if time > self._newest:
            self._newest = time
        if published > self._heard:
            self._heard = published
            if self._held and published >= self._due:
                self._release_due()

    def _release_due(self) -> None:
        """Write what was published no later than something that was heard."""
        for key in [key for key, held in self._held.items() if held.header.ts_publish <= self._heard]:
            self._release(key, self._newest)
        self._due = min((held.header.ts_publish for held in self._held.values()), default=0)

    def _release(self, key: StreamKey, time: int) -> None:
        """Write what is held of a stream, with this time, or that of the stream if it is later."""
        held = self._drop(key)
        assert held is not None
        place, header = self._places[key], held.header
        # Not far after its own publication: readers cut it to that anyway.
        place.time = max(place.time, min(time, header.ts_publish + AHEAD_NS))
        header = header._replace(ts_event=place.time)
        self._append(key, codec.pack(topics.market_data(self._shard, key), header, held.messages))

    def _guess(self, key: StreamKey) -> int:
        """The time for what is held of a stream while nothing is heard that was published as late."""
        published = self._held[key].header.ts_publish
        if self._newest and abs(published - self._newest) <= _NEAR_NS:
            return published
        return self._newest if self._heard else 0  # a recording is played, or nothing is known

    def _drop(self, key: StreamKey) -> _Held | None:
        held = self._held.pop(key, None)
        if held is not None:
            self._held_bytes -= held.size
        return held

    def _place(self, key: StreamKey) -> _Place:
        return self._places.setdefault(key, _Place())
