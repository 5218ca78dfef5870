"""State of every stream of a shard: what holds, at which position, of which term and from which input."""

from collections.abc import Iterator, Sequence

from lfmesh.core import encode
from lfmesh.core.contents import BookContent, TradesContent, content_of
from lfmesh.core.feed import Item
from lfmesh.core.recovery import Accepted, Opened
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import BackfilledTrade, SnapshotReply, StreamSummary
from lfmesh.ports import StoredState
from lfmesh.types import InputPosition, Level, Position, StreamKey


class StreamState:
    """State of one stream, and at which position, of which term and from which input it holds.

    `input` is that of the newest frame in it. What has been dealt with since without changing it is for the owner to
    know (`lfmesh.core.replica`), who gives it to the methods that tell of it. `ts` is when the newest message in it was
    published (ns).
    """

    __slots__ = ("_answer", "content", "input", "key", "position", "term", "ts")

    def __init__(self, key: StreamKey, term: int, position: Position, source: InputPosition, ts: int) -> None:
        self.key = key
        self.content = content_of(key.channel)
        self.term = term
        self.position = position
        self.input = source
        self.ts = ts
        self._answer: tuple[SnapshotReply, list[bytes]] | None = None

    def apply(self, fact: Accepted[Item]) -> None:
        """Increments, next in order."""
        items = fact.items
        self.content.apply([message for _, message in items])
        header = items[-1][0]
        self.position = Position(fact.epoch, fact.first_seq + len(items) - 1)
        self.input = header.input
        self.ts = header.ts_publish
        if header.term > self.term:
            self.term = header.term
        self._answer = None

    def answer(self, now: int) -> tuple[SnapshotReply, list[bytes], bool]:
        """Header and parts of the state, encoded once until the stream changes; True if it was encoded now."""
        known = self._answer
        if known is None:
            reply = SnapshotReply(
                self.key.product, self.key.channel, self.term, *self.position, ts_snapshot=now, input=self.input
            )
            self._answer = reply, self.content.parts()
            return *self._answer, True
        return *known, False

    def stored(self, source: InputPosition | None = None) -> StoredState:
        """As a state store keeps it; `source` where more is known than `input`."""
        return StoredState(self.key, self.term, self.position, source or self.input, self.ts, self.content.text())

    def summary(self, source: InputPosition | None = None, *, whole: bool = True) -> StreamSummary:
        """For a normalizer that starts; `source` where more is known than `input`."""
        trades: list[BackfilledTrade] = []
        bids: list[Level] = []
        asks: list[Level] = []
        fields = b""
        last_trade_id = 0
        match self.content:
            case TradesContent() as content:
                trades, last_trade_id = content.trades(), content.last_trade_id
            case BookContent() as content:
                bids, asks = content.levels()
            case content:
                fields = content.text()
        return StreamSummary(
            self.key.product, self.key.channel, self.term, *self.position, source or self.input,
            trades, bids, asks, fields, last_trade_id, whole,
        )  # fmt: skip


class ShardState:
    """The state of every stream of a shard, as far as it is known."""

    def __init__(self) -> None:
        self._streams: dict[StreamKey, StreamState] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[StreamState]:
        return iter(self._streams.values())

    def get(self, key: StreamKey) -> StreamState | None:
        """The stream's state, None where there is none."""
        return self._streams.get(key)

    def accept(self, key: StreamKey, fact: Accepted[Item]) -> None:
        """Increments; the stream must have a state, which its follower guarantees."""
        self._streams[key].apply(fact)

    def open(self, key: StreamKey, fact: Opened[Item]) -> None:
        """A published snapshot."""
        header = fact.items[-1][0]
        try:
            parts = [encode.state_of(message) for _, message in fact.items]
        except ValueError as error:
            raise BadMeshFrame(f"a snapshot of {key.product} {key.channel} without a state") from error
        self.base(key, header.term, fact.position, header.input, header.ts_publish, parts)

    def base(
        self, key: StreamKey, term: int, position: Position, source: InputPosition, ts: int, parts: Sequence[bytes]
    ) -> None:
        """A state from beside the stream: a publisher's answer, or what a store kept."""
        known = self._streams.get(key)
        state = StreamState(key, term if known is None else max(term, known.term), position, source, ts)
        state.content.load(parts)
        self._streams[key] = state

    def adopt(self, state: StreamState) -> None:
        """A stream's state that was put together elsewhere; it is this shard's from now on."""
        self._streams[state.key] = state

    def forget(self, key: StreamKey) -> None:
        """The state is void."""
        self._streams.pop(key, None)
