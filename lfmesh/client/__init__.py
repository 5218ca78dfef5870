"""L4: the client library. It follows a mesh through its gateways: reconnects, resumes by position, keeps books.

    import asyncio
    from lfmesh.client import TradeEvent, connect

    async def main() -> None:
        async with connect("ws://127.0.0.1:8000/ws") as feed:
            await feed.subscribe(["BTC-USD"], channels=["book", "trades"])
            async for event in feed:
                match event:
                    case TradeEvent(product=product, trade=trade):
                        print(product, trade.px, trade.qty, feed.book(product).best_bid)

    asyncio.run(main())

`lfmesh.client.sync` is the same for scripts and notebooks. `README.md` beside this file is the guide, `examples/` has
programs that run.
"""

from lfmesh.client.connection import Tap
from lfmesh.client.errors import (
    ClientError,
    FeedClosed,
    NoAnswer,
    NoGateway,
    NotSubscribed,
    RequestRefused,
    TooManySubscriptions,
    UnknownChannel,
    UnknownProduct,
)
from lfmesh.client.events import (
    BookSnapshot,
    BookUpdate,
    Connected,
    Disconnected,
    Event,
    Goaway,
    Increment,
    Missing,
    Refused,
    ReplayStatus,
    Skipped,
    Snapshot,
    StatusChanged,
    Tick,
    TickerSnapshot,
    TradeEvent,
    TradesSnapshot,
    Violation,
)
from lfmesh.client.feed import Events, Feed, FeedStatistics, connect
from lfmesh.client.state import Book, StreamStatus
from lfmesh.client.values import Level, Quote, Ticker, Trade
from lfmesh.types import Channel, Position, StreamKey

__all__ = [
    "Book",
    "BookSnapshot",
    "BookUpdate",
    "Channel",
    "ClientError",
    "Connected",
    "Disconnected",
    "Event",
    "Events",
    "Feed",
    "FeedClosed",
    "FeedStatistics",
    "Goaway",
    "Increment",
    "Level",
    "Missing",
    "NoAnswer",
    "NoGateway",
    "NotSubscribed",
    "Position",
    "Quote",
    "Refused",
    "ReplayStatus",
    "RequestRefused",
    "Skipped",
    "Snapshot",
    "StatusChanged",
    "StreamKey",
    "StreamStatus",
    "Tap",
    "Tick",
    "Ticker",
    "TickerSnapshot",
    "TooManySubscriptions",
    "Trade",
    "TradeEvent",
    "TradesSnapshot",
    "UnknownChannel",
    "UnknownProduct",
    "Violation",
    "connect",
]
