"""Whatever happens on the way, a client's trades are each once in order, and its book is the publisher's in the end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.client.events import Event, Missing, TradeEvent, TradesSnapshot, Violation
from lfmesh.core import encode
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
        place = after["epoch"], after["seq"]
        if place == (self.epoch[channel], self.seq[channel]):
            return []
        for index, unit in enumerate(ring):
            if (unit.epoch, unit.seq) in (place, (place[0], place[1] + 1)):
                start = index + 1 if (unit.epoch, unit.seq) == place else index
                return [text for later in ring[start:] for text in later.texts]
        return self.snapshot(channel, "resume_failed", told)


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

    def do(self, step: str, number: int) -> None:
        """One step of a script."""
        channel = Channel.BOOK if number % 2 else Channel.TRADES
        match step:
            case "book" | "trades":
                for _ in range(1 + number % 6):
                    self.send(Channel(step), self.model.publish(Channel(step), number), lost=False)
            case "open":
                self.send(channel, self.model.open(channel), lost=False)
            case "skip":
                self.send(channel, self.model.publish(channel, number), lost=True)
            case "skip_open":
                self.send(channel, self.model.open(channel), lost=True)
            case "behind":
                self.behind = number % 8
            case "lose":
                self.lose()
            case "connect":
                self.connect()
            case "deliver":
                self.deliver(number)
            case _:
                self.take(self.talk.wait(number / 10))

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.take(self.talk.connect())

    def lose(self) -> None:
        """What is under way is lost."""
        if self.connected:
            self.connected = False
            self.queue.clear()
            self.subscribed.clear()
            self.take(self.talk.lose())

    def answer(self) -> None:
        for request in self.talk.requests() if self.connected else ():
            self.queue.append(subscribed(request))
            for channel in map(Channel, request["channels"]):
                self.subscribed.add(channel)
                after = request.get("from_seq", {}).get(P, {}).get(str(channel))
                self.queue += self.model.begin(channel, after, max([0, *self.trades, *self.declared]), self.behind)

    def send(self, channel: Channel, texts: list[str], *, lost: bool) -> None:
        if channel in self.subscribed and not lost:
            self.queue += texts

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
    "wait",
)  # fmt: skip
STEPS = (*HONEST, "skip", "skip_open")
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


def test_the_model_resumes_as_the_protocol_says() -> None:
    model = Model()
    for number in range(3):
        model.publish(Channel.TRADES, number)
    texts = model.begin(Channel.TRADES, {"epoch": EPOCH, "seq": 1}, 1, 0)
    assert [json.loads(text)["data"]["seq"] for text in texts] == [2, 3]
