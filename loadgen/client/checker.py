"""Checks that a gateway keeps PROTOCOL's promises to one client. Pure: frames and times in, facts out.

    checker.connected(now)
    checker.requested(Subscribe(id=1, products=["BTC-USD"], channels=["book"]), now)    each request as it is sent
    checker.receive(frame, now)                                                         each text frame as it comes
    checker.tick(now)                                                                   a few times a second
    checker.violations                                                                  what was broken

Times are ns since the Unix epoch. Each violation is one broken promise; the checker then goes on from what it was sent.
Its books, tickers and trades are what a right client would hold.

Latencies are those of live increments. What was published before the stream was last asked for (the tail of a join or
a resume) says how long ago that was, not how fast the mesh is: it is counted as `from_before`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import assert_never

import msgspec

from lfmesh.core.statehash import ProductState
from lfmesh.types import Channel, Position, StreamKey
from loadgen.client.latency import Histogram
from loadgen.client.state import Book, Ticker, TradeLine, Trades
from loadgen.client.streams import BookCheck, Pause, Start, TickerCheck, TradesCheck
from loadgen.client.violations import Kind, Violation, ViolationLog
from loadgen.client.wire import (
    Control,
    ErrorMessage,
    GoawayMessage,
    HeartbeatMessage,
    IncrementMessage,
    Message,
    Ping,
    PongMessage,
    RateLimitMessage,
    ReplayMessage,
    Request,
    ResumePosition,
    SnapshotMessage,
    StatusMessage,
    Subscribe,
    SubscribedMessage,
    Unsubscribe,
    UnsubscribedMessage,
    decode,
)

HEARTBEAT_INTERVAL_NS = 1_000_000_000
_SILENT_HEARTBEATS = 3
_LATE_TICK_NS = 1_000_000_000
_MAX_ERRORS_KEPT = 100
_MAX_STATUSES_KEPT = 10_000
_REFUSALS = ("BAD_REQUEST", "INVALID_OPERATION", "TOO_MANY_SUBSCRIPTIONS")
"""Errors after which nothing else answers the request."""

Validate = Callable[[bytes], str | None]
"""What is wrong with a frame by the published models; None: nothing."""

AnyStream = TickerCheck | BookCheck | TradesCheck


@dataclass(frozen=True, slots=True)
class StatusSeen:
    """A `status` message, as it came."""

    product: str
    channel: str
    state: str
    reason: str
    at: int


class Checker:
    """One client's view of the mesh.

    `keep_trades` bounds the trades kept per product (None: all), `validate` is called with every frame,
    `heartbeat_interval_ns` is the gateway's: three of them in silence are a violation.
    """

    def __init__(
        self,
        *,
        keep_trades: int | None = None,
        heartbeat_interval_ns: int = HEARTBEAT_INTERVAL_NS,
        validate: Validate | None = None,
        max_violations: int = 100,
    ) -> None:
        self.violations = ViolationLog(max_violations)
        self.ops: Counter[str] = Counter()
        self.error_codes: Counter[str] = Counter()
        self.errors: list[str] = []
        self.statuses: deque[StatusSeen] = deque(maxlen=_MAX_STATUSES_KEPT)
        self.bytes_received = 0
        self.publish_latency = Histogram()
        self.ingest_latency = Histogram()
        self.from_before = 0
        self.last_data_at = 0
        self.going_away: str | None = None
        self.run = 0
        """Of a replay; 0 where none was told of."""
        self._keep_trades = keep_trades
        self._silence_ns = _SILENT_HEARTBEATS * heartbeat_interval_ns
        self._validate = validate
        self._streams: dict[tuple[str, str], AnyStream] = {}
        self._pending: dict[str | int, tuple[Subscribe | Unsubscribe, int]] = {}
        self._pings: Counter[int] = Counter()
        self._now = 0
        self._heard_at: int | None = None
        self._ticked_at = 0

    # What the session tells ------------------------------------------------------------------------------------

    def connected(self, now: int) -> None:
        """A connection is open: from now on silence counts."""
        self._heard_at = self._ticked_at = now
        self.going_away = None

    def disconnected(self) -> None:
        """It is over. State and positions stay, so that a `from_seq` on the next one can be checked."""
        self._heard_at = None
        self._pending.clear()
        self._pings.clear()
        for stream in self._streams.values():
            stream.end()

    def requested(self, request: Request, now: int) -> None:
        """A request is being sent."""
        if isinstance(request, Ping):
            self._pings[request.t] += 1
        elif not isinstance(request, Control):
            self._pending[request.id] = (request, now)

    def tick(self, now: int) -> None:
        """Time passes. A tick that comes late says that we were held up ourselves, and proves no silence."""
        late = now - self._ticked_at > _LATE_TICK_NS
        self._ticked_at = now
        if self._heard_at is None:
            return
        if late:
            self._heard_at = now
        elif now - self._heard_at > self._silence_ns:
            self._now = now
            self._complain(Kind.SILENCE, f"nothing for {(now - self._heard_at) / 1e9:.1f} s, no heartbeat either")
            self._heard_at = now

    def receive(self, frame: bytes, now: int) -> None:
        """A text frame has come."""
        self._now = self._heard_at = now
        self.bytes_received += len(frame)
        try:
            message = decode(frame)
        except msgspec.DecodeError as error:
            self._complain(Kind.MALFORMED, f"{error}: {frame[:200].decode('utf-8', 'replace')}")
            return
        except UnicodeDecodeError:
            self._complain(Kind.MALFORMED, "not UTF-8")
            return
        if type(message) is IncrementMessage:
            data = message.data
            self.last_data_at = now
            stream = self._streams.get((data.product, data.channel))
            if stream is not None and stream.active:
                stream.heard(now)
                if data.ts_publish > stream.asked_at:
                    self.publish_latency.record(now - data.ts_publish)
                    self.ingest_latency.record(now - data.ts_ingest)
                else:
                    self.from_before += 1
                stream.increment(data)
            else:
                self._complain(Kind.UNSUBSCRIBED, f"increment {data.seq}", data.product, data.channel)
        else:
            self._rare(message)
        if self._validate is not None:
            fault = self._validate(frame)
            if fault is not None:
                self._complain(Kind.MODEL, f"{fault}: {frame[:200].decode('utf-8', 'replace')}")

    # What it knows ---------------------------------------------------------------------------------------------

    def streams(self) -> Iterator[tuple[StreamKey, AnyStream]]:
        """Every stream that was ever subscribed."""
        for (product, channel), stream in self._streams.items():
            yield StreamKey(product, Channel(channel)), stream

    def waiting(self) -> list[StreamKey]:
        """Subscribed streams of which nothing has come yet."""
        return [key for key, stream in self.streams() if stream.active and not stream.started]

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    @property
    def increments(self) -> int:
        """Increments received, of all streams."""
        return sum(stream.increments for stream in self._streams.values())

    @property
    def snapshots(self) -> int:
        """Complete snapshots received, of all streams."""
        return sum(stream.reasons.total() for stream in self._streams.values())

    def position(self, product: str, channel: str) -> Position | None:
        """Where a stream stands."""
        stream = self._streams.get((product, channel))
        return None if stream is None else stream.position

    def book(self, product: str) -> Book | None:
        """A product's book, None before its snapshot."""
        stream = self._streams.get((product, "book"))
        return stream.book if isinstance(stream, BookCheck) else None

    def ticker(self, product: str) -> Ticker | None:
        """A product's ticker, None before its first message."""
        stream = self._streams.get((product, "ticker"))
        return stream.ticker if isinstance(stream, TickerCheck) else None

    def trades(self, product: str) -> Trades | None:
        """A product's trades, None if they were never subscribed."""
        stream = self._streams.get((product, "trades"))
        return stream.trades if isinstance(stream, TradesCheck) else None

    def declared_gaps(self) -> list[tuple[str, int, int]]:
        """Trades that the gateway declared missing: product, first and last id."""
        return [
            (key.product, first, last)
            for key, stream in self.streams()
            if isinstance(stream, TradesCheck)
            for first, last in stream.trades.declared
        ]

    def pauses(self, now: int) -> dict[StreamKey, Pause]:
        """The longest pause of each stream of which anything has come."""
        return {key: pause for key, stream in self.streams() if (pause := stream.pause(now)).ns}

    def forget_pauses(self) -> None:
        """Count pauses anew."""
        for _, stream in self.streams():
            stream.forget_pause()

    def resume_positions(self) -> dict[str, dict[str, ResumePosition]]:
        """`from_seq` for every stream that has a position."""
        found: dict[str, dict[str, ResumePosition]] = {}
        for key, stream in self.streams():
            if stream.position is not None:
                found.setdefault(key.product, {})[str(key.channel)] = ResumePosition(*stream.position)
        return found

    def product_states(self) -> list[ProductState]:
        """Each product as `lfmesh.core.statehash.state_hash` takes it; what was not subscribed is empty."""
        states = []
        for product in sorted({product for product, _ in self._streams}):
            book, ticker, trades = self.book(product), self.ticker(product), self.trades(product)
            last = _last_trade(ticker, trades)
            states.append(
                ProductState(
                    product,
                    bids=book.bids() if book else [],
                    asks=book.asks() if book else [],
                    last_trade=last,
                    best_bid=ticker.best_bid if ticker else book.best_bid() if book else None,
                    best_ask=ticker.best_ask if ticker else book.best_ask() if book else None,
                    trades=trades.hash if trades else None,
                )
            )
        return states

    # Inside ----------------------------------------------------------------------------------------------------

    def _complain(self, kind: Kind, detail: str, product: str = "", channel: str = "") -> None:
        self.violations.add(Violation(kind, product, channel, detail, self._now))

    def _rare(self, message: Message) -> None:
        """Everything but increments."""
        self.ops[str(message.__struct_config__.tag)] += 1
        match message:
            case SnapshotMessage():
                self._snapshot(message)
            case SubscribedMessage():
                self._subscribed(message)
            case UnsubscribedMessage():
                self._unsubscribed(message)
            case StatusMessage():
                self._status(message)
            case PongMessage(t=t):
                if not self._pings[t]:
                    self._complain(Kind.REPLY, f"pong {t} to no ping")
                self._pings[t] -= 1
            case ErrorMessage():
                self._error(message)
            case RateLimitMessage(id=request_id):
                self._answered(request_id)
            case GoawayMessage(reason=reason):
                self.going_away = reason
            case ReplayMessage(run=run):
                self._replay(run)
            case HeartbeatMessage() | IncrementMessage():
                pass
            case _:
                assert_never(message)

    def _replay(self, run: int) -> None:
        known, self.run = self.run, run
        if known not in (0, run):
            for stream in self._streams.values():
                stream.rewound()

    def _snapshot(self, message: SnapshotMessage) -> None:
        data = message.data
        self.last_data_at = self._now
        stream = self._streams.get((data.product, data.channel))
        if stream is not None and stream.active:
            stream.heard(self._now)
            stream.snapshot(data)
        else:
            self._complain(Kind.UNSUBSCRIBED, f"snapshot, {data.reason}", data.product, data.channel)

    def _error(self, message: ErrorMessage) -> None:
        self.error_codes[message.code] += 1
        if message.code in _REFUSALS:
            self._answered(message.id)
        if len(self.errors) < _MAX_ERRORS_KEPT:
            self.errors.append(f"{message.code}: {message.msg}")

    def _subscribed(self, message: SubscribedMessage) -> None:
        request, asked_at = self._answered(message.id)
        if not isinstance(request, Subscribe):
            self._complain(Kind.REPLY, f"subscribed, id {message.id!r}, answers no subscribe")
            return
        wanted = {(product, channel) for product in request.products for channel in request.channels}
        for product in message.products:
            for channel in message.channels:
                if (product, channel) not in wanted:
                    self._complain(Kind.REPLY, "subscribed, but not asked for", product, channel)
                start = _start(request, product, channel)
                self._stream(product, channel).begin(start, asked_at, request.conflate_ms)

    def _unsubscribed(self, message: UnsubscribedMessage) -> None:
        request, _ = self._answered(message.id)
        if not isinstance(request, Unsubscribe):
            self._complain(Kind.REPLY, f"unsubscribed, id {message.id!r}, answers no unsubscribe")
            return
        for (product, channel), stream in self._streams.items():
            if (request.products is None or product in request.products) and (
                request.channels is None or channel in request.channels
            ):
                stream.end()

    def _answered(self, request_id: str | int | None) -> tuple[Subscribe | Unsubscribe | None, int]:
        """The request that has been answered, and when it was sent."""
        return (None, 0) if request_id is None else self._pending.pop(request_id, (None, 0))

    def _status(self, message: StatusMessage) -> None:
        stream = self._streams.get((message.product, message.channel))
        if stream is None or not stream.active:
            self._complain(Kind.UNSUBSCRIBED, f"status {message.state}", message.product, message.channel)
            return
        stream.status = message.state
        self.statuses.append(StatusSeen(message.product, message.channel, message.state, message.reason, self._now))

    def _stream(self, product: str, channel: str) -> AnyStream:
        stream = self._streams.get((product, channel))
        if stream is None:
            report = partial(self._complain, product=product, channel=channel)
            match channel:
                case "ticker":
                    stream = TickerCheck(report)
                case "book":
                    stream = BookCheck(report)
                case _:
                    stream = TradesCheck(report, self._keep_trades)
            self._streams[product, channel] = stream
        return stream


def _start(request: Subscribe, product: str, channel: str) -> Start:
    """How the request makes a stream begin."""
    given = request.from_seq.get(product)
    if isinstance(given, int):
        return Start("resume", None, given)
    if given is not None and channel in given:
        return Start("resume", given[channel].epoch, given[channel].seq)
    return Start("snapshot" if request.want_snapshot else "next")


def _last_trade(ticker: Ticker | None, trades: Trades | None) -> TradeLine | None:
    if ticker is not None:
        return ticker.last_trade
    return trades.held[-1] if trades is not None and trades.held else None
