"""Whatever happens on the way, a client's trades are each once in order, and its book is the publisher's in the end.

The gateway conflates the book where that is asked for, and the client whenever it takes too little.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.client.events import Event, Missing, TradeEvent, TradesSnapshot, Violation
from lfmesh.core import encode
from lfmesh.core.conflation import Conflater, conflated
from lfmesh.types import Channel, Level, SnapshotReason
from tests.client.server import EPOCH, Json, P, book_incr, snapshot, subscribed, trade_incr, trades_snapshot
from tests.client.talk import BOOK, TRADES, Talk

RETAINED = 12


@dataclass
class Unit:
    """What was published, and the state after it."""

    epoch: int
    seq: int
    texts: list[str]
    trade_id: int
    levels: list[Level]


@dataclass
class Model:
    """A gateway with one product's book and trades, and a bounded memory of them, as the protocol wants it."""

    epoch: dict[Channel, int] = field(default_factory=lambda: {Channel.BOOK: EPOCH, Channel.TRADES: EPOCH})
    seq: dict[Channel, int] = field(default_factory=lambda: {Channel.BOOK: 0, Channel.TRADES: 0})
    bids: dict[int, str] = field(default_factory=dict)
    trade_id: int = 0
    ring: dict[Channel, list[Unit]] = field(default_factory=lambda: {Channel.BOOK: [], Channel.TRADES: []})

    def publish(self, channel: Channel, number: int) -> list[str]:
        seq = self.seq[channel] = self.seq[channel] + 1
        epoch = self.epoch[channel]
        if channel is Channel.TRADES:
            self.trade_id += 1
            text = trade_incr(seq, self.trade_id, epoch=epoch)
        else:
            px, qty = 100 + number % 7, "0" if number % 3 == 0 else f"{number}.5"
            if qty == "0":
                self.bids.pop(px, None)
            else:
                self.bids[px] = qty
            text = book_incr(seq, [(str(px), qty)], epoch=epoch)
        return self._keep(channel, [text])

    def open(self, channel: Channel) -> list[str]:
        """A new epoch, which may well be a lower number."""
        self.epoch[channel] += 1 if self.epoch[channel] % 3 else -5
        self.seq[channel] = 0
        return self._keep(channel, self.snapshot(channel, "epoch"))

    def _keep(self, channel: Channel, texts: list[str]) -> list[str]:
        unit = Unit(self.epoch[channel], self.seq[channel], texts, self.trade_id, self.levels())
        self.ring[channel].append(unit)
        del self.ring[channel][:-RETAINED]
        return texts

    def levels(self) -> list[Level]:
        return [(str(px), self.bids[px]) for px in sorted(self.bids, reverse=True)]

    def now(self, channel: Channel) -> Unit:
        return Unit(self.epoch[channel], self.seq[channel], [], self.trade_id, self.levels())

    def snapshot(self, channel: Channel, reason: SnapshotReason, after: int | None = None) -> list[str]:
        return self.state(channel, self.now(channel), reason, after)

    def state(self, channel: Channel, at: Unit, reason: SnapshotReason, after: int | None = None) -> list[str]:
        """The snapshot of a stream there. It lists the latest trades, and declares what of the rest is lost."""
        if channel is Channel.TRADES:
            first = max(1, at.trade_id - 4)
            listed = list(range(first, at.trade_id + 1))
            missing = (after + 1, first - 1) if after is not None and after + 1 < first else None
            return trades_snapshot(at.seq, listed, reason=reason, epoch=at.epoch, missing=missing, settled=at.trade_id)
        states = encode.book_state_parts(at.levels, [], part_bytes=30)
        return snapshot(channel, at.seq, states, reason=reason, epoch=at.epoch)

    def tail(self, channel: Channel, place: tuple[int, int]) -> list[str] | None:
        """What came after a position, as far as it is remembered; None: no more."""
        if place == (self.epoch[channel], self.seq[channel]):
            return []
        ring = self.ring[channel]
        for index, unit in enumerate(ring):
            if (unit.epoch, unit.seq) in (place, (place[0], place[1] + 1)):
                start = index + 1 if (unit.epoch, unit.seq) == place else index
                return [text for later in ring[start:] for text in later.texts]
        return None

    def begin(self, channel: Channel, after: Json | None, told: int, behind: int) -> list[str]:
        """What a subscription begins with. `told`: the newest trade that the client was sent. `behind`: another gateway
        answers, which is so many messages late, and gives up waiting for a position that it has not reached yet."""
        ring = self.ring[channel]
        if behind and behind < len(ring) and after is not None:
            at = ring[-behind - 1]
            if at.seq:  # an increment; of a late gateway the client's position is in the future
                texts = self.state(channel, at, "resume_failed", told)
                return texts + [text for unit in ring[-behind:] for text in unit.texts]
        if after is None:
            return self.snapshot(channel, "subscribe")
        tail = self.tail(channel, (after["epoch"], after["seq"]))
        return self.snapshot(channel, "resume_failed", told) if tail is None else tail


class Wire:
    """The way between model and client: what was sent and has not come yet, and what the client must have."""

    def __init__(self) -> None:
        self.model = Model()
        self.talk = Talk(connected=False)
        self.talk.conversation.subscribe([BOOK, TRADES])
        self.subscribed: set[Channel] = set()
        self.queue: list[str] = []
        self.trades: list[int] = []
        self.declared: set[int] = set()
        self.complaints: list[Event] = []
        self.connected = False
        self.behind = 0
        self.late_s = 0.0
        self.sent = {Channel.BOOK: (0, 0), Channel.TRADES: (0, 0)}
        """Up to where the client has been sent each stream."""
        self.told = 0
        """The newest trade that it has been sent."""
        self.lane: Conflater | None = None
        """Of the book, if it is wanted conflated."""
        self.merged = 0
        self.stalled = False
        """The client takes too little, and has left the fan-out."""

    def do(self, step: str, number: int) -> None:
        """One step of a script."""
        match step:
            case "lose":
                self.lose()
            case "connect":
                self.connect()
            case "deliver":
                self.deliver(number)
            case "wait":
                self.wait(number / 10)
            case "interval":
                self.talk.conversation.subscribe([BOOK], conflate_ms=number % 3 * 50)
            case _:
                self.gateway(step, number)

    def gateway(self, step: str, number: int) -> None:
        """Something happens at the gateway, or before it."""
        channel = Channel.BOOK if number % 2 else Channel.TRADES
        match step:
            case "book" | "trades":
                for _ in range(1 + number % 6):
                    self.send(Channel(step), self.model.publish(Channel(step), number), lost=False)
            case "skip":
                self.send(channel, self.model.publish(channel, number), lost=True)
            case "open" | "skip_open":
                self.send(channel, self.model.open(channel), lost=step == "skip_open")
            case "emit" | "skip_emit":
                self.emit(lost=step == "skip_emit")
            case "stall":
                self.stalled = self.connected
            case "drain":
                self.drain()
            case _:
                self.behind = number % 8

    def wait(self, seconds: float) -> None:
        """Time passes, though never so much that a right gateway's answers would come too late."""
        self.late_s = self.late_s + seconds if self.queue else 0.0
        if self.late_s > 5:
            self.late_s = 0.0
            self.deliver(10_000)
        self.take(self.talk.wait(seconds))

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.take(self.talk.connect())

    def lose(self) -> None:
        """What is under way is lost."""
        if self.connected:
            self.connected = self.stalled = False
            self.lane = None
            self.queue.clear()
            self.subscribed.clear()
            self.take(self.talk.lose())

    def answer(self) -> None:
        for request in self.talk.requests() if self.connected else ():
            self.queue.append(subscribed(request))
            for channel in map(Channel, request["channels"]):
                self.subscribed.add(channel)
                after = request.get("from_seq", {}).get(P, {}).get(str(channel))
                texts = self.model.begin(channel, after, max([0, *self.trades, *self.declared]), self.behind)
                if channel is Channel.BOOK:
                    self.lane = Conflater(BOOK) if request.get("conflate_ms") else None
                    texts = self.conflated(texts, after) if self.lane else texts
                self.pass_on(channel, texts)

    def conflated(self, texts: list[str], after: Json | None) -> list[str]:
        """What is resumed as one message, where no snapshot is among it."""
        if after is None or not texts or any('"op":"snapshot"' in text for text in texts):
            return texts
        return [conflated(BOOK, [text.encode() for text in texts], after["seq"]).decode()]

    def pass_on(self, channel: Channel, texts: list[str], *, lost: bool = False) -> None:
        """Write these to the client, or lose them on the way: it stands where the stream stands."""
        self.queue += [] if lost else texts
        self.sent[channel] = self.model.epoch[channel], self.model.seq[channel]
        if channel is Channel.TRADES:
            self.told = self.model.trade_id

    def send(self, channel: Channel, texts: list[str], *, lost: bool) -> None:
        """These were published."""
        if channel not in self.subscribed or self.stalled:
            return
        if channel is Channel.BOOK and self.lane is not None and '"op":"incr"' in texts[0]:
            self.lane.add([text.encode() for text in texts])
            return
        if channel is Channel.BOOK and self.lane is not None:
            self.lane.clear()
        self.pass_on(channel, texts, lost=lost)

    def emit(self, *, lost: bool) -> None:
        """An interval is over."""
        if self.lane is not None and self.lane.count and not self.stalled:
            self.merged += 1
            self.pass_on(Channel.BOOK, [self.lane.take(self.sent[Channel.BOOK][1]).decode()], lost=lost)

    def drain(self) -> None:
        """The client takes something again: it gets the book as it is, and the trades that are remembered."""
        if not self.stalled:
            return
        self.stalled = False
        if self.lane is not None:
            self.lane.clear()
        for channel in self.subscribed:
            tail = self.model.tail(channel, self.sent[channel])
            if tail == []:
                continue
            if channel is Channel.BOOK or tail is None:
                tail = self.model.snapshot(channel, "conflated", self.told)
            self.pass_on(channel, tail)

    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            self.take(self.talk.give(self.queue.pop(0)))
            if self.talk.conversation.broken:
                self.lose()  # with everything that is under way
                return

    def take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case TradeEvent():
                    self.trades.append(event.trade_id)
                case TradesSnapshot(new=new):
                    self.trades += [trade.trade_id for trade in new]
                case Missing(from_trade_id=first, to_trade_id=last):
                    self.declared |= set(range(first, last + 1))
                    if not event.declared:
                        self.complaints.append(event)
                case Violation():
                    self.complaints.append(event)
                case _:
                    pass


HONEST = (
    "book", "book", "trades", "trades", "open", "lose", "connect", "connect", "behind", "deliver", "deliver", "deliver",
    "wait", "emit", "emit", "interval", "stall", "drain",
)  # fmt: skip
STEPS = (*HONEST, "skip", "skip_open", "skip_emit")
"""The last ones break the protocol: a message never comes."""


def scripts(steps: Sequence[str]) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(steps), st.integers(0, 40)), min_size=20, max_size=150)


@settings(max_examples=200, deadline=None)
@given(scripts(HONEST))
def test_over_a_gateway_that_keeps_its_promises_nothing_is_complained_of(script: list[tuple[str, int]]) -> None:
    assert played(script).complaints == []


@settings(max_examples=200, deadline=None)
@given(scripts(STEPS))
def test_over_a_gateway_that_loses_messages_all_is_right_in_the_end(script: list[tuple[str, int]]) -> None:
    played(script)


def played(script: list[tuple[str, int]]) -> Wire:
    """Play a script, let all settle, and see that no trade is lost or comes twice, and the book is right."""
    wire = Wire()
    for step, number in script:
        wire.do(step, number)
        wire.answer()
    wire.behind = 0
    wire.connect()
    for _ in range(60):  # a message more of each, so that a loss shows, and time for everything that is due
        wire.send(Channel.BOOK, wire.model.publish(Channel.BOOK, 1), lost=False) if _ == 0 else None
        wire.send(Channel.TRADES, wire.model.publish(Channel.TRADES, 1), lost=False) if _ == 0 else None
        wire.answer()
        wire.drain()
        wire.emit(lost=False)
        wire.deliver(10_000)
        wire.take(wire.talk.wait(1))
        if not wire.connected:
            wire.connect()

    streams = wire.talk.conversation.streams
    assert wire.trades == sorted(set(wire.trades))
    first = wire.trades[0]
    assert set(wire.trades) | wire.declared >= set(range(first, wire.model.trade_id + 1))
    assert not set(wire.trades) & wire.declared
    assert streams[BOOK].contents.book.bids == wire.model.levels()
    for key in (BOOK, TRADES):
        assert streams[key].position == (wire.model.epoch[key.channel], wire.model.seq[key.channel])
        assert streams[key].status.state == "live"
    return wire


def test_the_model_conflates() -> None:
    conflating = [("connect", 0), ("interval", 1), ("book", 5), ("emit", 0), ("book", 5), ("emit", 0), ("deliver", 40)]
    wire = played([*conflating, ("stall", 0), ("book", 5), *[("trades", 5)] * 3, ("drain", 0), ("deliver", 40)])
    assert wire.merged >= 2
    assert wire.talk.conversation.conflated == 2
    assert wire.declared
    assert wire.complaints == []


def test_the_model_resumes_as_the_protocol_says() -> None:
    model = Model()
    for number in range(3):
        model.publish(Channel.TRADES, number)
    texts = model.begin(Channel.TRADES, {"epoch": EPOCH, "seq": 1}, 1, 0)
    assert [json.loads(text)["data"]["seq"] for text in texts] == [2, 3]
