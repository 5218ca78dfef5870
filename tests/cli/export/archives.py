"""Archives made by the project's own writer: of messages that a test names, and of the recorded tape."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lfmesh.archive import segments
from lfmesh.archive.journal import Entry
from lfmesh.archive.places import objects_folder
from lfmesh.archive.reader import Archive
from lfmesh.core import encode
from lfmesh.core.codec import Flags, Header
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Turn
from lfmesh.core.product import NOTHING_RESTORED, Product
from lfmesh.store.folder import FolderObjectStore
from lfmesh.types import (
    NO_INPUT,
    BookSnapshot,
    BookUpdate,
    Channel,
    Heartbeat,
    Level,
    Position,
    Quote,
    SnapshotReason,
    StreamKey,
    Trade,
    TradePosition,
)
from lfmesh.venues.coinbase.parse import parse
from loadgen import tape

VENUE = "coinbase"
DAY = 1_618_617_600_000_000_000
"""2021-04-17T00:00Z in ns."""
SECOND = 1_000_000_000

BTC_BOOK = StreamKey("BTC-USD", Channel.BOOK)
BTC_TRADES = StreamKey("BTC-USD", Channel.TRADES)
BTC_TICKER = StreamKey("BTC-USD", Channel.TICKER)


def keep(data_dir: Path, entries: Mapping[StreamKey, Sequence[Entry]]) -> Archive:
    """Archive the entries of each stream in the folder store of `data_dir`."""
    store = FolderObjectStore(objects_folder(data_dir))
    for stream, its in entries.items():
        for segment in segments.write(VENUE, stream, its):
            assert store.put(segment.name.key, segment.body)
    return Archive(store, VENUE)


class Stream:
    """Says things on a stream, one entry each; `at` are ns after the beginning of DAY."""

    def __init__(self, key: StreamKey, epoch: int = 7) -> None:
        self.key = key
        self.epoch = epoch
        self.seq = 0
        self.entries: list[Entry] = []

    def snapshot(self, *states: str, at: int = 0, reason: SnapshotReason = "epoch") -> None:
        messages = encode.snapshot(
            *self.key, Position(self.epoch, self.seq), DAY + at + 9, reason, [state.encode() for state in states]
        )
        self._add(Flags.SNAPSHOT, messages, at)

    def increment(self, fields: str, at: int) -> None:
        self.seq += 1
        kind = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}[self.key.channel]
        prefix = encode.increment_prefix(kind, *self.key, self.epoch)
        times = (DAY + at, DAY + at + 5, DAY + at + 9)
        self._add(Flags.INCREMENTS, [encode.increment(prefix, self.seq, times, "unverified", fields)], at)

    def book(self, *bids: Level, asks: Sequence[Level] = (), at: int) -> None:
        self.increment(encode.book_fields(bids, asks), at)

    def trade(self, trade_id: int, px: str, qty: str, at: int) -> None:
        self.increment(trade_text(trade_id, px, qty), at)

    def lose(self, messages: int = 1) -> None:
        """These messages are not archived."""
        self.seq += messages

    def open(self, epoch: int) -> None:
        """What comes is of this epoch."""
        self.epoch, self.seq = epoch, 0

    def _add(self, flags: int, messages: list[bytes], at: int) -> None:
        times = (DAY + at, DAY + at + 9)
        header = Header(int(flags), 1, 1, NO_INPUT, self.epoch, self.seq, 0, 0, *times)
        self.entries.append(Entry(self.key, header, messages))


def trade_text(trade_id: int, px: str = "100.10", qty: str = "0.50") -> str:
    return encode.trade_fields(Trade("BTC-USD", trade_id, px, qty, "buy", 0))


def archive(data_dir: Path, *streams: Stream) -> Archive:
    return keep(data_dir, {stream.key: stream.entries for stream in streams})


def entries_of(path: Path) -> dict[StreamKey, list[Entry]]:
    """What a mesh publishes of a recorded tape, through the core's own pipeline."""
    turn = Turn()
    products: dict[str, Product] = {}
    found: dict[StreamKey, list[Entry]] = defaultdict(list)
    turn.source(1, 1)
    for number, (received, frame) in enumerate(tape.read(path), 1):
        event = parse(frame)
        if not isinstance(event, Trade | TradePosition | Quote | BookSnapshot | BookUpdate | Heartbeat):
            continue
        turn.begin(received)
        turn.record(number, received)
        name = event.trade.product if isinstance(event, TradePosition) else event.product
        if name not in products:
            products[name] = Product(name, turn, lambda _: None, Liveness(received, 10 * SECOND), NOTHING_RESTORED)
        products[name].observe(event)
        found_now = _taken(turn, received)
        for entry in found_now:
            found[entry.stream].append(entry)
    return found


def _taken(turn: Turn, now: int) -> Iterable[Entry]:
    for outlet in turn.touched:
        for run in outlet.take():
            if run.flags != Flags.STATUS:
                previous = run.previous or Position(0, 0)
                header = Header(run.flags, 1, 1, run.input, run.epoch, run.first_seq, *previous, run.ts_event, now)
                yield Entry(outlet.stream, header, run.messages)
    turn.touched.clear()
