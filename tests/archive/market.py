"""One stream as the mesh publishes it, and, beside it, what a reader must find: times, positions, the state at each.

The state is kept in plain dicts and lists: nothing of the mesh's own contents.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from lfmesh.archive.journal import Entry
from lfmesh.core import encode
from lfmesh.core.archive import StateLine
from lfmesh.core.codec import Flags
from lfmesh.types import NO_INPUT, Channel, Position, StreamKey
from tests.archive.published import NOW, header

KINDS = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}
MS = 1_000_000


class Step(NamedTuple):
    """What happens next: `inc` (a message), `epoch` (a resync), `lose` (messages that nobody archives, and a snapshot).

    `ms` is how far the venue's time goes (it can go back); `pick` chooses what the message says.
    """

    kind: str
    ms: int
    pick: int


class Record(NamedTuple):
    """After one message or snapshot: the stream's time, where it stands, its state."""

    time: int
    position: Position
    state: Any
    messages: list[bytes]


class Market:
    """One stream; `entries` are the frames that were published, `records` what holds after each message."""

    def __init__(self, channel: Channel, product: str = "BTC-USD", start: int = NOW - 86_400_000 * MS) -> None:
        self.stream = StreamKey(product, channel)
        self.entries: list[Entry] = []
        self.records: list[Record] = []
        self._venue_time = start
        self._clock = 0
        self._publish = NOW
        self._epoch = 0
        self._seq = 0
        self._bids: dict[Decimal, tuple[str, str]] = {}
        self._asks: dict[Decimal, tuple[str, str]] = {}
        self._trades: list[str] = []
        self._tick = '{"last_trade":null,"best_bid":null,"best_ask":null}'
        self._trade_id = 0

    def play(self, steps: Sequence[Step]) -> None:
        self._open()
        for step in steps:
            match step.kind:
                case "inc":
                    self._increment(step)
                case "epoch":
                    self._venue_time += step.ms * MS
                    self._open()
                case _:
                    for number in range(1 + step.pick % 3):
                        self._fields(step._replace(pick=step.pick + number))
                        self._seq += 1
                    self._snapshot(Position(self._epoch, self._seq))

    def state_at(self, at: int) -> Record | None:
        """The last record that is not later than this."""
        found = [record for record in self.records if record.time <= at]
        return found[-1] if found else None

    def state_line(self, number: int) -> StateLine:
        """What a shard's snapshot holds of the stream after so many messages."""
        record = self.records[number]
        text = self._text(record.state).encode()
        return StateLine(
            self.stream.product, self.stream.channel, 7, *record.position, record.time, NOW, NO_INPUT, msgspec.Raw(text)
        )

    # What happens -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        before = Position(self._epoch, self._seq)
        self._epoch += 10
        self._seq = 0
        self._snapshot(before)

    def _snapshot(self, previous: Position) -> None:
        position = Position(self._epoch, self._seq)
        states = [self._text(self._state())]
        if self.stream.channel is Channel.BOOK:  # in parts, as big ones come
            bids, asks = self._sides(self._state())
            states = [encode.book_fields(bids[:1], asks[:1]), encode.book_fields(bids[1:], asks[1:])]
        messages = encode.snapshot(*self.stream, position, self._publish, "epoch", states)
        # The venue's time of the first one is known; the others take the stream's.
        ts_event = 0 if self._clock else self._venue_time
        self._clock = self._clock or ts_event
        head = header(position, int(Flags.SNAPSHOT), ts_event=ts_event, ts_publish=self._publish, previous=previous)
        self.entries.append(Entry(self.stream, head, messages))
        self._record(position, messages)

    def _increment(self, step: Step) -> None:
        self._venue_time += step.ms * MS
        self._seq += 1
        self._publish += MS
        self._clock = max(self._clock, self._venue_time)
        position = Position(self._epoch, self._seq)
        prefix = encode.increment_prefix(KINDS[self.stream.channel], *self.stream, self._epoch)
        times = (self._venue_time, self._publish, self._publish)
        message = encode.increment(prefix, self._seq, times, "unverified", self._fields(step))
        self._record(position, [message])
        last = self.entries[-1]
        if last.header.flags == 0 and step.pick % 2:  # some come in one frame
            head = last.header._replace(ts_event=max(last.header.ts_event, self._venue_time))
            self.entries[-1] = Entry(self.stream, head, [*last.messages, message])
        else:
            head = header(position, ts_event=self._venue_time, ts_publish=self._publish)
            self.entries.append(Entry(self.stream, head, [message]))

    def _fields(self, step: Step) -> str:
        match self.stream.channel:
            case Channel.TICKER:
                self._tick = (
                    f'{{"last_trade":null,"best_bid":{{"px":{step.pick}.10,"qty":1.0}},'
                    f'"best_ask":{{"px":{step.pick + 1}.00,"qty":null}}}}'
                )
                return self._tick
            case Channel.TRADES:
                self._trade_id += 1
                trade = f'{{"px":{step.pick}.50,"qty":0.0010,"side":"buy","trade_id":{self._trade_id}}}'
                self._trades.append(trade)
                return trade
            case Channel.BOOK:
                return self._change(step.pick)

    def _change(self, pick: int) -> str:
        side = self._bids if pick % 2 else self._asks
        px = f"{(0 if pick % 2 else 100) + pick % 7}.{'5' if pick % 3 else '50'}"
        qty = ("1.25", "0.00", "3", "0")[pick % 4]
        if Decimal(qty):
            side[Decimal(px)] = (px, qty)
        else:
            side.pop(Decimal(px), None)
        return encode.book_fields([(px, qty)], []) if pick % 2 else encode.book_fields([], [(px, qty)])

    # What it comes to -------------------------------------------------------------------------------------------

    def _record(self, position: Position, messages: list[bytes]) -> None:
        self.records.append(Record(self._clock, position, self._state(), messages))

    def _state(self) -> Any:  # noqa: ANN401 - by channel
        match self.stream.channel:
            case Channel.TICKER:
                return self._tick
            case Channel.TRADES:
                return tuple(self._trades[-50:])
            case Channel.BOOK:
                return dict(self._bids), dict(self._asks)

    def _sides(self, state: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:  # noqa: ANN401
        bids, asks = state
        return [bids[px] for px in sorted(bids, reverse=True)], [asks[px] for px in sorted(asks)]

    def _text(self, state: Any) -> str:  # noqa: ANN401
        match self.stream.channel:
            case Channel.TICKER:
                return str(state)
            case Channel.TRADES:
                return encode.trades_state(state)
            case Channel.BOOK:
                return encode.book_fields(*self._sides(state))

    def text_of(self, record: Record) -> Any:  # noqa: ANN401
        """A record's state as JSON read with every digit."""
        return json.loads(self._text(record.state), parse_float=str, parse_int=str)
