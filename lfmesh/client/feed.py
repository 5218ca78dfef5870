"""A feed: one client's connection to a mesh, kept up for as long as it is open.

    async with connect("ws://127.0.0.1:8000/ws") as feed:
        await feed.subscribe(["BTC-USD"], channels=["book", "trades"])
        async for event in feed:
            print(event, feed.book("BTC-USD").best_bid)

While somebody iterates, books and tickers are those of the event that was just given out, and who reads too slowly
slows the socket down. While nobody does, they are what they are now; see `lfmesh.client.desk`.
"""

import asyncio
import random
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from lfmesh.client.connection import Connector, Tap
from lfmesh.client.conversation import Answer, Conversation
from lfmesh.client.desk import Desk
from lfmesh.client.errors import ClientError, NoAnswer, NoGateway, NotSubscribed, UnknownChannel
from lfmesh.client.events import Event, ReplayStatus
from lfmesh.client.link import Route, checked, http_base
from lfmesh.client.state import Book, StreamStatus
from lfmesh.client.stream import Stream
from lfmesh.client.values import Ticker, Trade
from lfmesh.types import CHANNELS, Channel, Position, StreamKey

_ANSWER_S = 30.0

After = Mapping[tuple[str, str], tuple[int, int]]
"""Positions by (product, channel): what `Feed.positions` returns, also after it has been stored and read back."""


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """What has happened so far. `unread`: messages and events that wait for a reader. `conflated`: snapshots that the
    gateway sent in place of changes, because this feed took less than came."""

    connections: int
    messages: int
    bytes: int
    unread: int
    dropped: int
    conflated: int


class Feed:
    """See the module's docstring. Made by `connect`; to be used on the loop that made it."""

    def __init__(
        self, urls: Sequence[str], *, events: bool = True, keep_trades: int = 1000, tap: Tap | None = None
    ) -> None:
        route = Route(urls, random.random)
        self._conversation = Conversation(random.random, keep_trades=keep_trades)
        self._desk = Desk(self._conversation, route, self._is_read, keeps_events=events)
        self._connector = Connector(route, self._desk, tap)
        self._desk.wake = self._connector.wake
        self._route = route
        self._keeps_events = events
        self._reader: weakref.ref[Events] | None = None
        self._task: asyncio.Task[None] | None = None

    # Asking -----------------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        products: Iterable[str] | str,
        *,
        channels: Iterable[str] = ("ticker",),
        want_snapshot: bool = True,
        from_seq: After | None = None,
        conflate_ms: int = 0,
        timeout_s: float | None = _ANSWER_S,
    ) -> None:
        """Follow `channels` (any of ticker, trades, book) of `products`. Returns when the gateway has answered.

        From then on they are followed until `unsubscribe`, over all connections. Those that are followed already
        are begun anew. `from_seq`: positions of an earlier run (see `positions`), to go on from without a snapshot;
        a book of which only the changes come has no levels until there is a snapshot. `conflate_ms`: at most one change
        of each ticker and book in this time, which stands for all of them (`Increment.merged`); every trade comes.

        Raises RequestRefused (UnknownProduct, UnknownChannel, TooManySubscriptions) for what the gateway refuses; the
        rest of the call is carried out. NoAnswer when nothing has come in `timeout_s`.
        """
        names = [products] if isinstance(products, str) else list(products)
        kinds = [_channel(name) for name in ([channels] if isinstance(channels, str) else channels)]
        keys = [StreamKey(product, channel) for product in names for channel in kinds]
        self._desk.check()
        number = self._conversation.subscribe(
            keys, want_snapshot=want_snapshot, conflate_ms=conflate_ms, after=from_seq
        )
        await self._answer(number, timeout_s)

    async def unsubscribe(
        self,
        products: Iterable[str] | str | None = None,
        channels: Iterable[str] | None = None,
        *,
        timeout_s: float | None = _ANSWER_S,
    ) -> None:
        """Follow `channels` of `products` no more (None: all). Nothing more comes of them; what is known is gone."""
        names = [products] if isinstance(products, str) else None if products is None else list(products)
        kinds = None if channels is None else [_channel(name) for name in channels]
        self._desk.check()
        await self._answer(self._conversation.unsubscribe(names, kinds), timeout_s)

    async def ping(self, *, timeout_s: float | None = _ANSWER_S) -> float:
        """Seconds to the gateway and back, through everything that waits on the way. NoAnswer."""
        self._desk.check()
        return (await self._answer(self._conversation.ping(), timeout_s)).took_ns / 1e9

    async def replay(
        self,
        action: Literal["status", "pause", "resume", "seek", "speed"] = "status",
        *,
        at: int | str | None = None,
        speed: float | Literal["max"] | None = None,
        timeout_s: float | None = _ANSWER_S,
    ) -> ReplayStatus:
        """Control the replay that is followed, for everybody who follows it; where it is now.

        `seek`: to `at`, ISO 8601 with a zone or ns. `speed`: to `speed`. RequestRefused: no replay is followed, or it
        can't do that. NoAnswer: no connection, or nothing in `timeout_s`.
        """
        self._desk.check()
        answer = await self._answer(self._conversation.control(action, at, speed), timeout_s)
        if answer.replay is None:
            raise NoAnswer(f"the connection to {self.url} was lost before the answer came")
        return answer.replay

    async def products(self) -> list[str]:
        """The products that the gateway lists (over HTTP, at the same address). LfmeshError."""
        from lfmesh.client.http import fetch_products

        return await fetch_products(http_base(self.url))

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """There is a connection."""
        self._desk.catch_up()
        return self._conversation.connected

    @property
    def url(self) -> str:
        """The address in use, or tried next."""
        return self._route.url

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        self._desk.catch_up()
        return self._conversation.unanswered

    def book(self, product: str) -> Book:
        """The book of a product; live, see `Book.copy`. NotSubscribed."""
        return self._stream(product, Channel.BOOK).contents.book

    def ticker(self, product: str) -> Ticker:
        """The ticker of a product; all of its parts are None before the first message. NotSubscribed."""
        return self._stream(product, Channel.TICKER).contents.ticker

    def trades(self, product: str) -> list[Trade]:
        """The newest trades of a product (`keep_trades` of them), oldest first. NotSubscribed."""
        return list(self._stream(product, Channel.TRADES).contents.trades.held)

    def position(self, product: str, channel: str) -> Position | None:
        """Where a stream stands; None before its first message. NotSubscribed."""
        return self._stream(product, channel).position

    def positions(self) -> dict[StreamKey, Position]:
        """Where every stream stands: to go on from in another run, `subscribe(…, from_seq=…)`.

        Who has not read all events yet stores the positions of those that it has dealt with instead.
        """
        self._desk.catch_up()
        found = ((key, stream.position) for key, stream in self._conversation.streams.items())
        return {key: position for key, position in found if position is not None}

    @property
    def replay_status(self) -> ReplayStatus | None:
        """Where the replay that is followed was when it told last; None for a live mesh."""
        self._desk.catch_up()
        return self._conversation.replay

    def status(self, product: str, channel: str) -> StreamStatus:
        """How a stream is, and why. NotSubscribed."""
        return self._stream(product, channel).status

    def statistics(self) -> FeedStatistics:
        """What has happened so far."""
        return FeedStatistics(
            self._connector.connections,
            self._connector.messages,
            self._connector.bytes,
            self._desk.unread,
            self._conversation.dropped,
            self._conversation.conflated,
        )

    # Waiting ----------------------------------------------------------------------------------------------------

    async def wait_connected(self, *, timeout_s: float | None = None) -> None:
        """Wait until there is a connection. NoAnswer."""
        if not await self._desk.until(lambda: self._conversation.connected, timeout_s):
            raise NoAnswer(f"no connection to {self.url} within {timeout_s:g} s: {self._desk.last_reason}")

    async def wait_for(self, product: str, channel: str, *, timeout_s: float | None = _ANSWER_S) -> None:
        """Wait until a stream has its state. NotSubscribed, NoAnswer."""
        stream = self._stream(product, channel)
        if not await self._desk.until(lambda: stream.started, timeout_s):
            raise NoAnswer(f"nothing of {product} {channel} within {timeout_s:g} s: it is {_said(stream.status)}")

    async def wait_for_book(self, product: str, *, timeout_s: float | None = _ANSWER_S) -> Book:
        """The book of a product, as soon as it is there. NotSubscribed, NoAnswer."""
        book = self._stream(product, Channel.BOOK).contents.book
        if not await self._desk.until(lambda: book.ready, timeout_s):
            status = self.status(product, Channel.BOOK)
            raise NoAnswer(f"no book of {product} within {timeout_s:g} s: it is {_said(status)}")
        return book

    # Reading ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Events":
        """Events from where reading was left off; as long as the iterator lives, the feed goes at its pace."""
        if not self._keeps_events:
            raise ClientError("this feed was made with events=False: it keeps state, and tells of nothing")
        events = Events(self._desk.read)
        self._reader = weakref.ref(events)
        return events

    # Ending -----------------------------------------------------------------------------------------------------

    def drop(self, reason: str = "dropped") -> None:
        """Cut the connection, without a goodbye; it is made again and everything is resumed. For tests and audits."""
        self._connector.drop(reason)

    async def close(self) -> None:
        """End it: the connection is closed, iterators end once what has come is read. Idempotent."""
        self._connector.ending = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._desk.end(None)

    # Inside -----------------------------------------------------------------------------------------------------

    async def open(self, timeout_s: float | None) -> None:
        """Begin; returns with the first connection, or at once if `timeout_s` is 0. NoGateway."""
        self._task = asyncio.create_task(self._connector.run(), name="lfmesh feed")
        self._task.add_done_callback(self._ended)
        if timeout_s == 0:
            return
        connected = False
        try:
            connected = await self._desk.until(lambda: self._conversation.connected, timeout_s)
        finally:
            if not connected:
                await self.close()
        if not connected:
            raise NoGateway(f"no gateway at {self.url} within {timeout_s:g} s: {self._desk.last_reason}")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._desk.end(None if task.cancelled() else task.exception())

    def _is_read(self) -> bool:
        return self._reader is not None and self._reader() is not None

    async def _answer(self, number: int, timeout_s: float | None) -> Answer:
        """Wait for what the gateway answers; its error is raised."""
        answer = await self._desk.answer(number, timeout_s)
        if answer is None:
            why = " (events wait unread)" if self._desk.full else ""
            state = "" if self._conversation.connected else f": no connection: {self._desk.last_reason}"
            raise NoAnswer(f"no answer from {self.url} within {timeout_s:g} s{why}{state}")
        if answer.error is not None:
            raise answer.error
        return answer

    def _stream(self, product: str, channel: str) -> Stream:
        self._desk.catch_up()
        stream = self._conversation.streams.get(StreamKey(product, _channel(channel)))
        if stream is None:
            raise NotSubscribed(f"{product} {channel} is not subscribed")
        return stream


class Events:
    """What is given to `async for`: the events of a feed, in order."""

    __slots__ = ("__weakref__", "_read")

    def __init__(self, read: Callable[[], Awaitable[Event]]) -> None:
        self._read = read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self._read()


class Connecting:
    """What `connect` returns: `async with connect(url) as feed`, or `feed = await connect(url)` and `feed.close()`."""

    def __init__(self, feed: Callable[[], Feed], open_timeout_s: float | None) -> None:
        self._make = feed
        self._timeout_s = open_timeout_s
        self._feed: Feed | None = None

    async def _open(self) -> Feed:
        self._feed = feed = self._make()
        await feed.open(self._timeout_s)
        return feed

    def __await__(self) -> Generator[object, None, Feed]:
        return self._open().__await__()

    async def __aenter__(self) -> Feed:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._feed is not None
        await self._feed.close()


def connect(
    url: str | Sequence[str],
    *,
    open_timeout_s: float | None = 10.0,
    events: bool = True,
    keep_trades: int = 1000,
    tap: Tap | None = None,
) -> Connecting:
    """Follow a mesh through the gateway at `url`, or through any of several.

    Several addresses are alternatives: when one is lost, or goes away, the next one is taken, and everything is resumed
    by position. The first connection is waited for `open_timeout_s` (None: for ever; 0: not at all).

    `events=False`: only state is kept, nothing is iterated. `keep_trades`: how many trades of a product are held.
    `tap` sees everything raw.

    Raises NoGateway: an address that is none; something there that is no gateway; nothing there in time.
    """
    urls = checked(url)
    return Connecting(lambda: Feed(urls, events=events, keep_trades=keep_trades, tap=tap), open_timeout_s)


def _channel(name: str) -> Channel:
    try:
        return Channel(name)
    except ValueError:
        known = ", ".join(CHANNELS)
        raise UnknownChannel("UNKNOWN_CHANNEL", f"no such channel: {name}; known: {known}") from None


def _said(status: StreamStatus) -> str:
    return f"{status.state} ({status.reason})" if status.reason else status.state
