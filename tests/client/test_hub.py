"""The client library at the gateway's own hub, without sockets: whatever is conflated, both keep their promises.

One product is published; one client, by the library, subscribes and subscribes again, takes little, is limited, loses
its connection. A strict checker sees each message beside the library. In the end both hold what was published.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from lfmesh.client.conversation import Conversation
from lfmesh.client.events import Event, Missing, TradeEvent, TradesSnapshot, Violation
from lfmesh.core import encode
from lfmesh.core.hub import Hub, HubLimits
from lfmesh.core.hub_archive import WantArchive
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_frames import payload
from lfmesh.core.hub_joins import After, Fresh, JoinLimits, WantSnapshot
from lfmesh.core.hub_older import WantOlder
from lfmesh.core.hub_snapshots import State
from lfmesh.models.requests import SubscribeRequest, parse_request
from lfmesh.types import Channel, Level, Position, StreamKey, Trade
from loadgen.client.checker import Checker
from loadgen.client.tap import CheckerTap
from tests.client.server import P
from tests.client.talk import BOOK, TICKER, TRADES
from tests.core.hub_world import split

MS = 1_000_000
SECOND = 1000 * MS
TERM = 7
LISTED = 5
KINDS = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}
KEYS = (TICKER, TRADES, BOOK)


class Publisher:
    """One product as it is published, and its states at the positions of late."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.at = dict.fromkeys(KEYS, Position(100, 0))
        self.bids: dict[int, Level] = {}
        self.trades: list[Trade] = []
        self.ticker = encode.ticker_fields("null", "null", "null")
        self.states: dict[StreamKey, deque[State]] = {key: deque(maxlen=30) for key in KEYS}

    def open(self, key: StreamKey, now: int) -> list[bytes]:
        """A new epoch, with the same content."""
        self.at[key] = Position(self.at[key].epoch + 10, 0)
        self._remember(key, now)
        return encode.snapshot(*key, self.at[key], now, "epoch", self._state(key))

    def publish(self, key: StreamKey, now: int) -> bytes:
        epoch, seq = self.at[key]
        self.at[key] = Position(epoch, seq + 1)
        fields = self._change(key, now)
        self._remember(key, now)
        prefix = encode.increment_prefix(KINDS[key.channel], *key, epoch)
        return encode.increment(prefix, seq + 1, (now, now, now), "unverified", fields)

    def levels(self) -> list[Level]:
        return [self.bids[px] for px in sorted(self.bids, reverse=True)]

    def _change(self, key: StreamKey, now: int) -> str:
        draw = self.draw
        match key.channel:
            case Channel.TICKER:
                self.ticker = encode.ticker_fields("null", encode.level((f"{draw.randint(1, 9)}.50", None)), "null")
                return self.ticker
            case Channel.TRADES:
                number = len(self.trades) + 1
                self.trades.append(Trade(P, number, f"{number}.50", "0.00100000", "buy", now))
                return encode.trade_fields(self.trades[-1])
            case Channel.BOOK:
                changed: list[Level] = []
                for px in draw.sample(range(100, 112), draw.randint(1, 3)):
                    level = draw.choice((f"{px}", f"{px}.0", f"{px}.00")), draw.choice(("0", "0.00", f"{now}.5"))
                    changed.append(level)
                    self.bids.pop(px, None)
                    if level[1].strip("0."):
                        self.bids[px] = level
                return encode.book_fields(changed, [])

    def _state(self, key: StreamKey) -> list[str]:
        match key.channel:
            case Channel.TICKER:
                return [self.ticker]
            case Channel.TRADES:
                listed = map(encode.trade_fields, self.trades[-LISTED:])
                return [encode.trades_state(listed, len(self.trades))]
            case Channel.BOOK:
                return encode.book_state_parts(self.levels(), [], self.draw.choice((160, encode.PART_BYTES)))

    def _remember(self, key: StreamKey, now: int) -> None:
        parts = tuple(part.encode() for part in self._state(key))
        self.states[key].append(State(self.at[key], TERM, now, parts))


class Socket:
    """The gateway's end of a connection: takes everything, or (stalled) keeps it as a transport's buffer would."""

    def __init__(self) -> None:
        self.sent: deque[str] = deque()
        self.held: list[bytes] = []
        self.stalled = False
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.stalled:
            self.held.append(data)
        else:
            self.sent.extend(payload(frame).decode() for frame in split(data))

    def buffered(self) -> int:
        return sum(map(len, self.held))

    def close(self, code: int, reason: str) -> None:
        assert (code, reason) == (4001, "slow consumer")
        self.closed = True

    def drain(self) -> None:
        self.stalled = False
        held, self.held = self.held, []
        for data in held:
            self.write(data)


class World:
    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.now = 1000 * SECOND
        pace = draw.choice((0.0, 0.0, 0.0, 30.0))
        limits = HubLimits(
            draw.choice((2_000, 20_000, 1_000_000)),
            0,
            draw.choice((20_000, 1_000_000)),
            soft_bytes=draw.choice((600, 600, 3_000, 100_000)),
            soft_age_ns=SECOND,
            stall_ns=4 * SECOND,
            client_messages_per_s=pace,
            joins=JoinLimits(draw.choice((0, 1_000, 100_000)), 100_000, 2 * SECOND, 20_000, trades=LISTED),
        )
        self.hub = Hub(limits)
        self.publisher = Publisher(draw)
        self.talk = Conversation(draw.random)
        self.tap = CheckerTap(Checker())
        self.socket = Socket()
        self.client: Client | None = None
        self.requests: deque[str] = deque()
        self.waited = 0
        self.ending = False
        self.trades: list[int] = []
        self.declared: set[int] = set()
        self.complaints: list[Event] = []
        self.talk.subscribe(KEYS, conflate_ms=draw.choice((0, 20, 100)))
        for key in KEYS:
            self.open(key)

    # What is published ------------------------------------------------------------------------------------------

    def open(self, key: StreamKey) -> None:
        messages = self.publisher.open(key, self.now)
        self.hub.opened(self.hub.stream(key), self.publisher.at[key], TERM, messages, self.now)
        self.hub.flush()

    def publish(self, key: StreamKey, count: int) -> None:
        messages = [self.publisher.publish(key, self.now) for _ in range(count)]
        self.hub.increments(self.hub.stream(key), self.publisher.at[key], messages, self.now)
        self.hub.flush()
        self.hung_up()

    def heal(self, key: StreamKey) -> None:
        """Our own feed has lost some, and goes on from a state."""
        for _ in range(self.draw.randint(1, 4)):
            self.publisher.publish(key, self.now)
        self.hub.healed(self.hub.stream(key), self.publisher.states[key][-1], self.now)
        self.hub.flush()

    # The connection ---------------------------------------------------------------------------------------------

    def connect(self) -> None:
        if self.client is None:
            self.socket = Socket()
            self.client = self.hub.connect(self.socket)
            self.tap.opened("ws://h/ws", self.now)
            self.talk.opened("ws://h/ws", self.now)
            self.ask()

    def lose(self, reason: str = "broken") -> None:
        if self.client is not None:
            self.hub.disconnect(self.client)
            self.client = None
            self.requests.clear()
            self.waited = 0
            self.tap.closed(reason, self.now)
            self.talk.closed("ws://h/ws", reason, 0.0, None, 0, self.now)
            self.take()

    def hung_up(self) -> None:
        if self.socket.closed:
            self.lose("closed with 4001")

    def stall(self) -> None:
        if self.client is not None and not self.client.paused:
            self.socket.stalled = True
            self.hub.paused(self.client, self.now)

    def drain(self) -> None:
        if self.client is not None and self.client.paused:
            self.socket.drain()
            self.hub.drained(self.client)

    def pull(self) -> None:
        self.hub.pull(self.now)

    # The client -------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """The book and the ticker anew: a client that gives up its trades would have to miss some."""
        self.talk.subscribe([BOOK, TICKER], conflate_ms=self.draw.choice((0, 10, 20, 100, 1000)))
        self.ask()

    def ask(self) -> None:
        if self.client is not None:
            for text in self.talk.take_requests(self.now):
                self.tap.sent(text, self.now)
                self.requests.append(text)

    def serve(self) -> None:
        """The gateway reads one request."""
        if self.client is None or not self.requests:
            return
        request = parse_request(self.requests.popleft())
        assert isinstance(request, SubscribeRequest)
        channels = ",".join(f'"{channel}"' for channel in request.channels)
        told = f'{{"op":"subscribed","id":{request.id},"products":["{P}"],"channels":[{channels}]}}'
        self.hub.send(self.client, told.encode())
        given = (request.from_seq or {}).get(P, {})
        assert isinstance(given, dict)
        for channel in request.channels:
            position = given.get(channel)
            start = Fresh() if position is None else After(Position(position.epoch, position.seq))
            self.hub.subscribe(self.client, StreamKey(P, Channel(channel)), start, self.now, request.conflate_ms)

    def deliver(self, count: int) -> None:
        sent = self.socket.sent
        while self.client is not None and sent and count:
            count -= 1
            text = sent.popleft()
            self.tap.received(text, self.now)
            self.talk.receive(text, self.now)
            self.take()
        self.ask()

    def take(self) -> None:
        self.talk.take_answers()
        for event in self.talk.take_events():
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

    # Time -------------------------------------------------------------------------------------------------------

    def wait(self, ms: int) -> None:
        """Time passes, though never so much that an answer would come too late."""
        self.waited += ms
        if self.waited > 3000:
            self.settle(3)
        self.now += ms * MS
        self.hub.tick(self.now)
        self.hung_up()
        at = self.hub.emit_at(self.now)
        if at is not None and at <= self.now:
            self.hub.emit(self.now)
        self.answer()
        self.talk.tick(self.now)
        self.take()
        self.ask()

    def answer(self) -> None:
        for want in self.hub.take_wants():
            match want:
                case WantSnapshot(key):
                    states = self.publisher.states[key]
                    sure = self.ending
                    if sure or self.draw.random() < 0.8:
                        late = 1 if sure else self.draw.randint(1, min(3, len(states)))
                        self.hub.snapshot(key, states[-late], self.now)
                    else:
                        self.hub.no_snapshot(key, self.now)
                case WantOlder(key, _):
                    self.hub.no_older(key, self.now)
                case WantArchive(key, _):
                    self.hub.not_archived(key, "none", self.now)

    def settle(self, turns: int) -> None:
        self.waited = 0
        for _ in range(turns):
            self.drain()
            while self.requests:
                self.serve()
            while self.hub.pull(self.now):
                pass
            self.answer()
            self.deliver(100_000)

    def play(self, steps: int) -> None:
        draw = self.draw
        actions: Sequence[tuple[int, Callable[[], None]]] = (
            (30, lambda: self.publish(draw.choice(KEYS), draw.randint(1, 4))),
            (1, lambda: self.open(draw.choice(KEYS))),
            (1, lambda: self.heal(draw.choice((BOOK, TICKER)))),
            (1, self.lose),
            (6, self.connect),
            (5, self.stall),
            (3, self.drain),
            (10, self.pull),
            (1, self.subscribe),
            (10, self.serve),
            (15, lambda: self.deliver(draw.randint(1, 40))),
            (15, lambda: self.wait(draw.choice((1, 10, 30, 100, 700)))),
        )
        weights = [weight for weight, _ in actions]
        for _ in range(steps):
            draw.choices(actions, weights)[0][1]()
        self.ending = True
        self.connect()
        for _ in range(60):
            self.settle(2)
            self.wait(500)
            self.connect()

    def check(self) -> None:
        """Both hold what was published, and nothing was wrong on the way."""
        publisher, checker, streams = self.publisher, self.tap.checker, self.talk.streams
        assert self.complaints == []
        assert list(checker.violations.first) == []
        for key in KEYS:
            assert streams[key].position == checker.position(*key) == publisher.at[key], key
            assert streams[key].status.state == "live"
        book, ticker = checker.book(P), checker.ticker(P)
        assert book is not None
        assert ticker is not None
        assert streams[BOOK].contents.book.bids == book.bids() == publisher.levels()
        bid = streams[TICKER].contents.ticker.best_bid
        assert (bid and bid.px_text) == (ticker.best_bid and ticker.best_bid[0])
        assert encode.level(bid) in publisher.ticker
        assert self.trades == sorted(set(self.trades))
        newest = len(publisher.trades)
        if self.trades:
            assert set(self.trades) | self.declared >= set(range(self.trades[0], newest + 1))
        assert not set(self.trades) & self.declared


def play(seed: int, steps: int) -> World:
    world = World(seed)
    world.play(steps)
    world.check()
    return world


@pytest.mark.parametrize("seed", range(40))
def test_the_library_and_the_hub_keep_their_promises(seed: int) -> None:
    play(seed, 300)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_long_histories(seed: int) -> None:
    play(seed, 2000)


def test_the_histories_have_what_they_are_about() -> None:
    worlds = [play(seed, 300) for seed in range(100, 108)]
    checkers = [world.tap.checker for world in worlds]
    streams = [stream for checker in checkers for _, stream in checker.streams()]
    assert sum(stream.conflated for stream in streams) > 20
    assert sum(stream.reasons["conflated"] for stream in streams) > 2
    assert sum(world.tap.resumes for world in worlds) > 5
    assert any(world.declared for world in worlds)
