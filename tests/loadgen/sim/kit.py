"""What the simulator's tests share: a reader of the feed, a WebSocket client, a GET, a feed without sockets."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect

from loadgen.sim.audience import Audience, VenueChannel
from loadgen.sim.config import SimConfig
from loadgen.sim.feed import Instant, Truth
from loadgen.sim.frames import payload_of
from loadgen.sim.model_feed import ModelFeed

Json = dict[str, Any]
SECOND_NS = 1_000_000_000
EPOCH_NS = 1_700_000_000 * SECOND_NS


def at(seconds: float) -> Instant:
    """Both clocks so many seconds after the beginning of a test's time."""
    ns = round(seconds * SECOND_NS)
    return Instant(ns, EPOCH_NS + ns)


class Follower:
    """Builds books, trades and tickers from frames: a few independent lines, as a consumer would."""

    def __init__(self) -> None:
        self.books: dict[str, dict[str, dict[Decimal, list[str]]]] = {}
        self.trades: dict[str, list[Json]] = {}
        self.positions: dict[str, Json] = {}
        self.tickers: dict[str, Json] = {}
        self.heartbeats: dict[str, list[Json]] = {}
        self.counts: dict[str, int] = {}

    def apply(self, raw: str | bytes) -> Json:
        frame: Json = json.loads(raw)
        kind, product = frame["type"], frame.get("product_id", "")
        self.counts[kind] = self.counts.get(kind, 0) + 1
        match kind:
            case "snapshot":
                self.books[product] = {
                    side: {Decimal(px): [px, qty] for px, qty in frame[side]} for side in ("bids", "asks")
                }
            case "l2update":
                for side, px, qty in frame["changes"]:
                    book = self.books[product]["bids" if side == "buy" else "asks"]
                    if Decimal(qty):
                        book[Decimal(px)] = [px, qty]
                    else:
                        book.pop(Decimal(px), None)
            case "match":
                self.trades.setdefault(product, []).append(frame)
            case "last_match":
                self.positions[product] = frame
            case "ticker":
                self.tickers[product] = frame
            case "heartbeat":
                self.heartbeats.setdefault(product, []).append(frame)
            case _:
                pass
        return frame

    def bids(self, product: str) -> list[list[str]]:
        return [level for _, level in sorted(self.books[product]["bids"].items(), reverse=True)]

    def asks(self, product: str) -> list[list[str]]:
        return [level for _, level in sorted(self.books[product]["asks"].items())]

    def best(self, product: str) -> tuple[list[str], list[str]]:
        bids, asks = self.books[product]["bids"], self.books[product]["asks"]
        return bids[max(bids)], asks[min(asks)]

    def trades_hash(self, product: str) -> str:
        other = {"buy": "sell", "sell": "buy"}
        lines = [
            f"{trade['trade_id']},{trade['price']},{trade['size']},{other[trade['side']]}\n"
            for trade in self.trades.get(product, [])
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check_book(self, truth: Json) -> None:
        product = truth["product"]
        assert self.bids(product) == truth["bids"]
        assert self.asks(product) == truth["asks"]

    def check(self, truth: Json) -> None:
        """Everything equals a truth of one who has listened from the beginning."""
        self.check_book(truth)
        product = truth["product"]
        assert len(self.trades.get(product, [])) == truth["trades"]
        assert self.trades_hash(product) == truth["trades_hash"]
        assert truth["best_bid"] == self.bids(product)[0]
        assert truth["best_ask"] == self.asks(product)[0]


class Recorder:
    """A subscriber that keeps everything."""

    def __init__(self) -> None:
        self.frames: list[tuple[VenueChannel, int, bytes]] = []

    def push(self, frame: bytes, channel: VenueChannel, index: int) -> None:
        self.frames.append((channel, index, payload_of(frame)))

    def payloads(self, *channels: VenueChannel) -> list[bytes]:
        return [payload for channel, _, payload in self.frames if not channels or channel in channels]


MARKET_CHANNELS = (VenueChannel.LEVEL2, VenueChannel.LEVEL2_BATCH, VenueChannel.TICKER, VenueChannel.MATCHES)


def model_with(
    config: SimConfig, channels: Iterable[VenueChannel] = MARKET_CHANNELS
) -> tuple[ModelFeed, Recorder, Audience]:
    """A model feed that somebody listens to on all products of these channels; started at `at(0)`."""
    audience = Audience(len(config.listed_products))
    feed = ModelFeed(config, audience, at(0))
    recorder = Recorder()
    for channel in channels:
        for index in range(len(feed.products)):
            audience.join(recorder, channel, index)
    feed.start(at(0))
    return feed, recorder, audience


def as_json(truth: Truth) -> Json:
    from msgspec import to_builtins

    built: Json = json.loads(json.dumps(to_builtins(truth)))
    return built


class VenueClient:
    """A client of the simulator's WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.follower = Follower()

    async def ask(self, action: str = "subscribe", **fields: object) -> None:
        await self.connection.send(json.dumps({"type": action, **fields}))

    async def frame(self) -> Json:
        """The next frame, applied."""
        return self.follower.apply(await self.connection.recv())

    async def until(self, kind: str, product: str | None = None) -> Json:
        """The next frame of a type, applying all before it."""
        while True:
            frame = await self.frame()
            if frame["type"] == kind and product in (None, frame.get("product_id")):
                return frame

    async def catch_up(self) -> None:
        """Apply all that was sent before now: an unsubscribe from nothing is echoed after it."""
        await self.ask("unsubscribe", channels=["status"])
        await self.until("subscriptions")


@asynccontextmanager
async def client(url: str, *, compressed: bool = False) -> AsyncIterator[VenueClient]:
    async with connect(url, max_size=None, compression="deflate" if compressed else None) as connection:
        yield VenueClient(connection)


async def get(url: str) -> tuple[int, dict[str, str], Any]:
    """(status, headers by lower-case name, JSON body)."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    writer.write(f"GET {target or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert len(body) == int(headers["content-length"])
    return int(lines[0].split()[1]), headers, json.loads(body)


def recorded_tape() -> Path:
    """The real tape beside the project; skips the test, saying why, where it is not there."""
    default = Path(__file__).parents[4] / "shared/data/coinbase-exchange-2021-04-17.tape"
    path = Path(os.environ.get("LFMESH_TEST_TAPE", default))
    if not path.is_file():
        pytest.skip(f"the recorded tape is not at {path}; LFMESH_TEST_TAPE names another place")
    return path
