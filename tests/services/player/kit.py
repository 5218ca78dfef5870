"""A small archive in memory, a player and a gateway that serve it, and clients that check what they are sent."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lfmesh.archive.asof import StateAt
from lfmesh.archive.history import Told
from lfmesh.archive.segments import Line
from lfmesh.client import Feed, connect
from lfmesh.config import Config
from lfmesh.core import encode
from lfmesh.core.contents import content_of
from lfmesh.messages import ServiceRecord
from lfmesh.services.gateway import GatewayService
from lfmesh.services.player import PlayerService, PlayOptions
from lfmesh.types import CHANNELS, Channel, Level, Position, Role, StreamKey, Trade
from loadgen.client.checker import Checker
from loadgen.client.tap import CheckerTap
from tests.services.snapshotter.world import Supervisor, supervised

START = 1_618_677_000_000_000_000
STEP = 10_000_000
"""Between two rounds."""
EPOCH = START // 1000


class Recording:
    """Lines as a session leaves them: each round brings a trade, a tick and a book update of each product."""

    def __init__(self, products: int = 2, rounds: int = 300, resync_at: int = 100) -> None:
        self.lines: list[Told] = []
        self.streams = [StreamKey(f"P{number}-USD", channel) for number in range(products) for channel in CHANNELS]
        self._books: dict[str, tuple[dict[int, Level], dict[int, Level]]] = {}
        self._positions: dict[StreamKey, Position] = {}
        for key in self.streams:
            self._open(key, EPOCH, START)
        for number in range(1, rounds + 1):
            at = START + number * STEP
            for key in self.streams:
                if number == resync_at and key.channel is Channel.BOOK:
                    self._open(key, EPOCH + number, at)
                else:
                    self._increment(key, number, at)
        self.end = self.lines[-1].line.time

    def _open(self, key: StreamKey, epoch: int, at: int) -> None:
        match key.channel:
            case Channel.TICKER:
                parts = [encode.ticker_fields("null", "null", "null")]
            case Channel.TRADES:
                parts = [encode.trades_state([], 0)]
            case Channel.BOOK:
                bids, asks = self._books[key.product] = (
                    {px: (f"{px}.5", "1.00") for px in range(80, 100)},
                    {px: (f"{px}.5", "1.00") for px in range(100, 120)},
                )
                parts = encode.book_state_parts([bids[px] for px in sorted(bids, reverse=True)], [*asks.values()], 400)
        self._positions[key] = Position(epoch, 0)
        texts = encode.snapshot(*key, Position(epoch, 0), at, "epoch", parts)
        for number, text in enumerate(texts, 1):
            self.lines.append(Told(key, Line(at, epoch, 0, text, True, number, len(texts))))

    def _increment(self, key: StreamKey, number: int, at: int) -> None:
        epoch, seq = self._positions[key] = Position(self._positions[key].epoch, self._positions[key].seq + 1)
        trade = encode.trade_fields(Trade(key.product, number, "99.70", f"{number}.000", "buy", at))
        kind, fields = "trade", trade
        if key.channel is Channel.TICKER:
            kind, fields = "tick", encode.ticker_fields(trade, encode.level(("99.5", "1.00")), "null")
        elif key.channel is Channel.BOOK:
            px = 80 + number % 20
            qty = "0.00" if number % 3 == 0 else f"{number}.10"
            kind, fields = "book", encode.book_fields([(f"{px}.5", qty)], [])
        prefix = encode.increment_prefix(kind, *key, epoch)
        text = encode.increment(prefix, seq, (at, at + 500, at + 1000), "verified", fields)
        self.lines.append(Told(key, Line(at, epoch, seq, text)))

    def increments(self) -> dict[StreamKey, list[bytes]]:
        """Of each stream, in order."""
        found: dict[StreamKey, list[bytes]] = {key: [] for key in self.streams}
        for key, line in self.lines:
            if not line.snapshot:
                found[key].append(line.message)
        return found


class MemoryTape:
    """A `Tape` of lines in memory. `failures` are raised by `lines`, the next one after so many lines."""

    def __init__(self, lines: Sequence[Told], streams: Sequence[StreamKey] | None = None) -> None:
        self.told = list(lines)
        self.streams = list(dict.fromkeys(told.stream for told in lines)) if streams is None else list(streams)
        self.start, self.end = lines[0].line.time, max(told.line.time for told in lines)
        self.failures: list[tuple[int, Exception]] = []
        self.kept: list[StateAt] = []
        """What the archive has of states, in order."""
        self.opened: list[int] = []

    def state(self, stream: StreamKey, at: int) -> StateAt | None:
        """The plain way: everything from the beginning, or from the newest state that was kept."""
        found = next((state for state in reversed(self.kept) if state.stream == stream and state.time <= at), None)
        content = content_of(stream.channel)
        position, time_ = Position(0, 0), 0
        if found is not None:
            content.load(found.parts)
            position, time_ = found.position, found.time
        parts: list[bytes] = []
        for key, line in self.told:
            here = Position(line.epoch, line.seq)
            if key != stream or line.time > at or here < position:
                continue
            if line.snapshot:
                parts = [*parts, encode.state_of(line.message)] if line.part > 1 else [encode.state_of(line.message)]
                content.load(parts)
            elif here == position:
                continue
            elif here == (position.epoch, position.seq + 1):
                content.apply([line.message])
            else:
                position = Position(0, 0)
                continue
            position, time_ = here, line.time
        return StateAt(stream, position, time_, content.parts()) if position.epoch else None

    def states(self, at: int) -> list[StateAt]:
        """Of all streams that have one."""
        return [state for key in self.streams if (state := self.state(key, at)) is not None]

    def lines(self, start_ts: int, after: Mapping[StreamKey, Position]) -> Iterator[Told]:
        """See `Tape`."""
        self.opened.append(start_ts)
        given = 0
        for told in self.told:
            position = Position(told.line.epoch, told.line.seq)
            if told.line.time < start_ts or position <= after.get(told.stream, Position(0, 0)):
                continue
            if self.failures and given >= self.failures[0][0]:
                raise self.failures.pop(0)[1]
            given += 1
            yield told


@dataclass
class World:
    """A replay that is served."""

    supervisor: Supervisor
    player: PlayerService
    gateway: GatewayService
    checkers: list[Checker] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.gateway.http_url().replace("http", "ws", 1) + "/ws"

    @asynccontextmanager
    async def feed(self, products: Sequence[str] = (), *, subscribe: bool = True) -> AsyncIterator[Feed]:
        """A client of everything, checked; it is to see no broken promise. Its checker is the last of `checkers`."""
        checker = Checker()
        self.checkers.append(checker)
        async with connect(self.url, tap=CheckerTap(checker)) as feed:
            if subscribe:
                await feed.subscribe(products or list(self.gateway.products), channels=CHANNELS)
            yield feed
        problems = [str(violation) for violation in checker.violations.first]
        assert problems == [], problems


def configured(products: Sequence[str], **gateway: object) -> Config:
    return Config().override(
        {
            "mesh": {"products": tuple(products), "shards": 1},
            "normalizer": {"instance": "player"},
            "gateway": {"port": 0, "drain_s": 0.1, "heartbeat_interval_s": 0.2, "resume_wait_s": 0.1, **gateway},
        }
    )


@asynccontextmanager
async def served(tape: MemoryTape, options: PlayOptions | None = None, **gateway: object) -> AsyncIterator[World]:
    """The tape, played (as fast as it is taken, when the first client has subscribed) and served."""
    config = configured(list(dict.fromkeys(key.product for key in tape.streams)), **gateway)
    async with supervised() as supervisor:
        player = PlayerService(config, supervisor.context(), tape, options or PlayOptions(speed=None))
        serving = GatewayService(config, supervisor.context(), replay=player)
        try:
            await player.start()
            await serving.start()
            serving.on_peers(
                [
                    ServiceRecord(role, "player", 1, player.endpoints(), "0", 1, "localhost", 0)
                    for role in (Role.NORMALIZER, Role.SNAPSHOTTER)
                ]
            )
            await player.attached.wait()
            yield World(supervisor, player, serving)
        finally:
            await serving.stop()
            await player.stop()


def book_of(lines: Sequence[Told], product: str, at: int) -> dict[str, str]:
    """Sizes by price of a product's book as of a moment, the plain way."""
    import json

    book: dict[str, str] = {}
    for key, line in lines:
        if line.time > at or key != (product, Channel.BOOK):
            continue
        data = json.loads(line.message, parse_float=str, parse_int=str)["data"]
        if line.snapshot and line.part == 1:
            book.clear()
        for px, qty in [*data.get("state", data.get("fields"))["bids"], *data.get("state", data.get("fields"))["asks"]]:
            book[px] = qty
            if not qty.strip("0."):
                del book[px]
    return book


def now() -> int:
    return time.time_ns()
