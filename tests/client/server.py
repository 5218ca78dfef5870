"""A gateway that does what a test tells it, right or wrong, on a real socket; and messages as the mesh encodes them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from lfmesh.client import Event, Events
from lfmesh.core import encode
from lfmesh.types import Channel, Level, Position, SnapshotReason, Trade

P = "BTC-USD"
EPOCH = 1_790_000_000_000_000
QUIET = '{"last_trade":null,"best_bid":null,"best_ask":null}'
Json = dict[str, Any]
_KIND = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}


def incr(channel: Channel, seq: int, fields: str, *, epoch: int = EPOCH, product: str = P) -> str:
    prefix = encode.increment_prefix(_KIND[channel], product, channel, epoch)
    return encode.increment(prefix, seq, (1, 2, 3), "verified", fields).decode()


def trade_incr(seq: int, trade_id: int, *, epoch: int = EPOCH, product: str = P) -> str:
    return incr(Channel.TRADES, seq, trade_text(trade_id), epoch=epoch, product=product)


def book_incr(seq: int, bids: Sequence[Level] = (), asks: Sequence[Level] = (), *, epoch: int = EPOCH) -> str:
    return incr(Channel.BOOK, seq, encode.book_fields(bids, asks), epoch=epoch)


def merged(message: str, prev_seq: int) -> str:
    return message.replace(',"ts_event"', f',"prev_seq":{prev_seq},"ts_event"', 1)


def trade_text(trade_id: int) -> str:
    return encode.trade_fields(Trade(P, trade_id, f"{trade_id}.50", "0.00100000", "buy", 1))


def snapshot(
    channel: Channel,
    seq: int,
    states: Sequence[str],
    *,
    reason: SnapshotReason = "subscribe",
    epoch: int = EPOCH,
    missing: tuple[int, int] | None = None,
    product: str = P,
) -> list[str]:
    made = encode.snapshot(product, channel, Position(epoch, seq), 5, reason, list(states), missing)
    return [message.decode() for message in made]


def book_snapshot(
    seq: int, bids: Sequence[Level] = (), asks: Sequence[Level] = (), *, reason: SnapshotReason = "subscribe",
    epoch: int = EPOCH,
) -> list[str]:  # fmt: skip
    return snapshot(Channel.BOOK, seq, [encode.book_fields(bids, asks)], reason=reason, epoch=epoch)


def trades_snapshot(
    seq: int, ids: Sequence[int] = (), *, reason: SnapshotReason = "subscribe", epoch: int = EPOCH,
    missing: tuple[int, int] | None = None, settled: int | None = None,
) -> list[str]:  # fmt: skip
    state = encode.trades_state([trade_text(number) for number in ids], settled)
    return snapshot(Channel.TRADES, seq, [state], reason=reason, epoch=epoch, missing=missing)


def ticker_snapshot(
    seq: int, *, epoch: int = EPOCH, reason: SnapshotReason = "subscribe", product: str = P
) -> list[str]:
    return snapshot(Channel.TICKER, seq, [QUIET], epoch=epoch, reason=reason, product=product)


def subscribed(request: Json, **other: object) -> str:
    return json.dumps({"op": "subscribed", **{key: request[key] for key in ("id", "products", "channels")}, **other})


class Caller:
    """One connection, as the server sees it."""

    def __init__(self, connection: ServerConnection, number: int) -> None:
        self.connection = connection
        self.number = number

    async def request(self, op: str = "subscribe") -> Json:
        """The client's next request of this kind; pings are answered meanwhile."""
        while True:
            request: Json = json.loads(await self.connection.recv())
            if request["op"] == op:
                return request
            assert request["op"] == "ping", request
            await self.send(json.dumps({"op": "pong", "t": request["t"]}))

    async def send(self, *texts: str) -> None:
        for text in texts:
            await self.connection.send(text)

    async def accept(self, *texts: str) -> Json:
        """Answer the next subscription, and send this."""
        request = await self.request()
        await self.send(subscribed(request), *texts)
        return request

    async def stay(self) -> None:
        """Answer pings until the client has left."""
        await self.request("nothing of the kind")

    def cut(self) -> None:
        self.connection.transport.abort()


Script = Callable[[Caller], Awaitable[None]]


@asynccontextmanager
async def gateway(*scripts: Script) -> AsyncIterator[str]:
    """The URL of a server that does one script a connection, the last one again and again.

    A script that ends closes the connection; what breaks in one is raised at the end.
    """
    callers = 0
    broken: list[BaseException] = []

    async def handle(connection: ServerConnection) -> None:
        nonlocal callers
        callers += 1
        try:
            await scripts[min(callers, len(scripts)) - 1](Caller(connection, callers))
        except ConnectionClosed:
            pass
        except BaseException as error:
            broken.append(error)
            raise

    server: Server
    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    for error in broken:
        if not isinstance(error, asyncio.CancelledError):
            raise error


async def take[E: Event](events: Events, kind: type[E], *, until: Callable[[E], bool] = lambda _: True) -> E:
    """The next event of a kind; what comes before it is passed over."""
    async for event in events:
        if isinstance(event, kind) and until(event):
            return event
    raise AssertionError("the feed has ended")


async def through[E: Event](
    events: Events, kind: type[E], *, until: Callable[[E], bool] = lambda _: True
) -> list[Event]:
    """All events up to the first of a kind, with it."""
    seen: list[Event] = []
    async for event in events:
        seen.append(event)
        if isinstance(event, kind) and until(event):
            return seen
    raise AssertionError("the feed has ended")
