"""The same feed for scripts and notebooks, without `async`.

    from lfmesh.client.sync import connect

    with connect("ws://127.0.0.1:8000/ws") as feed:
        feed.subscribe(["BTC-USD"], channels=["book"])
        print(feed.wait_for_book("BTC-USD").best_bid)
        for event in feed:
            ...

The feed lives on a loop of its own in a background thread, so that it also works where a loop runs already, as in
notebooks. What it returns is a copy that stays as it is: the thread goes on. It may be used from several threads. A
feed that nobody closes ends when nobody holds it any more, or with the program. Events, values and errors are those of
`lfmesh.client`.
"""

import asyncio
import atexit
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from lfmesh.client import feed as aio
from lfmesh.client.connection import Tap
from lfmesh.client.errors import FeedClosed
from lfmesh.client.events import Event, ReplayStatus
from lfmesh.client.feed import After, Feed, FeedStatistics
from lfmesh.client.state import Book, StreamStatus
from lfmesh.client.values import Ticker, Trade
from lfmesh.types import Position, StreamKey

_ANSWER_S = 30.0
_open_feeds: "weakref.WeakSet[SyncFeed]" = weakref.WeakSet()


def connect(
    url: str | Sequence[str],
    *,
    open_timeout_s: float | None = 10.0,
    events: bool = True,
    keep_trades: int = 1000,
    tap: Tap | None = None,
) -> "SyncFeed":
    """Follow a mesh; a context manager, or to be closed with `close`. See `lfmesh.client.connect`. NoGateway.

    `tap` is called in the feed's thread.
    """
    connecting = aio.connect(url, open_timeout_s=open_timeout_s, events=events, keep_trades=keep_trades, tap=tap)
    return SyncFeed(connecting)


class _Loop:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="lfmesh feed", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            # Who waits for something in another thread must not wait for ever.
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    def do[T](self, coroutine: Coroutine[object, object, T]) -> T:
        """Run something there, and wait for it; Ctrl-C ends the waiting, and what was waited for."""
        if not self._thread.is_alive():
            coroutine.close()
            raise FeedClosed("the feed is closed")
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise FeedClosed("the feed is closed") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def end(self) -> None:
        """Stop; idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def end_after(self, coroutine: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run a last thing there, then stop; without waiting, from any thread."""

        async def last() -> None:
            try:
                await coroutine()
            finally:
                self._loop.stop()

        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(lambda: self._keep(self._loop.create_task(last())))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._last = task


class SyncFeed:
    """A feed on a loop of its own; see the module's docstring, and `lfmesh.client.Feed` for what each method does."""

    def __init__(self, connecting: aio.Connecting) -> None:
        self._loop = _Loop()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._feed: Feed = self._loop.do(_awaited(connecting))
        except BaseException:
            self._loop.end()
            raise
        _open_feeds.add(self)
        self._forgotten = weakref.finalize(self, self._loop.end_after, self._feed.close)
        self._forgotten.atexit = False  # `_close_all` does it, and waits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """Events from where reading was left off; as long as the iterator lives, the feed goes at its pace."""
        return SyncEvents(self._loop.do, self._ask(lambda feed: aiter(feed)))

    def close(self) -> None:
        """End it; iterators end. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._forgotten.detach()
                self._loop.do(self._feed.close())
                self._loop.end()
                _open_feeds.discard(self)

    # Asking -----------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        products: Iterable[str] | str,
        *,
        channels: Iterable[str] = ("ticker",),
        want_snapshot: bool = True,
        from_seq: After | None = None,
        conflate_ms: int = 0,
        timeout_s: float | None = _ANSWER_S,
    ) -> None:
        """Follow `channels` of `products`; returns when the gateway has answered. RequestRefused, NoAnswer.

        `conflate_ms`: at most one change of each ticker and book in this time, which stands for all of them.
        """
        self._loop.do(
            self._feed.subscribe(
                products,
                channels=channels,
                want_snapshot=want_snapshot,
                from_seq=from_seq,
                conflate_ms=conflate_ms,
                timeout_s=timeout_s,
            )
        )

    def unsubscribe(
        self,
        products: Iterable[str] | str | None = None,
        channels: Iterable[str] | None = None,
        *,
        timeout_s: float | None = _ANSWER_S,
    ) -> None:
        """Follow `channels` of `products` no more; None: all."""
        self._loop.do(self._feed.unsubscribe(products, channels, timeout_s=timeout_s))

    def ping(self, *, timeout_s: float | None = _ANSWER_S) -> float:
        """Seconds to the gateway and back. NoAnswer."""
        return self._loop.do(self._feed.ping(timeout_s=timeout_s))

    def replay(
        self,
        action: Literal["status", "pause", "resume", "seek", "speed"] = "status",
        *,
        at: int | str | None = None,
        speed: float | Literal["max"] | None = None,
        timeout_s: float | None = _ANSWER_S,
    ) -> ReplayStatus:
        """Control the replay that is followed; where it is now. RequestRefused, NoAnswer."""
        return self._loop.do(self._feed.replay(action, at=at, speed=speed, timeout_s=timeout_s))

    def products(self) -> list[str]:
        """The products that the gateway lists. LfmeshError."""
        return self._loop.do(self._feed.products())

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """There is a connection."""
        return self._ask(lambda feed: feed.connected)

    @property
    def url(self) -> str:
        """The address in use, or tried next."""
        return self._ask(lambda feed: feed.url)

    def book(self, product: str) -> Book:
        """The book of a product, as it is now: a copy. NotSubscribed."""
        return self._ask(lambda feed: feed.book(product).copy())

    def ticker(self, product: str) -> Ticker:
        """The ticker of a product. NotSubscribed."""
        return self._ask(lambda feed: feed.ticker(product))

    def trades(self, product: str) -> list[Trade]:
        """The newest trades of a product, oldest first. NotSubscribed."""
        return self._ask(lambda feed: feed.trades(product))

    def position(self, product: str, channel: str) -> Position | None:
        """Where a stream stands. NotSubscribed."""
        return self._ask(lambda feed: feed.position(product, channel))

    def positions(self) -> dict[StreamKey, Position]:
        """Where every stream stands: to go on from in another run."""
        return self._ask(lambda feed: feed.positions())

    @property
    def replay_status(self) -> ReplayStatus | None:
        """Where the replay that is followed was when it told last; None for a live mesh."""
        return self._ask(lambda feed: feed.replay_status)

    def status(self, product: str, channel: str) -> StreamStatus:
        """How a stream is, and why. NotSubscribed."""
        return self._ask(lambda feed: feed.status(product, channel))

    def statistics(self) -> FeedStatistics:
        """What has happened so far."""
        return self._ask(lambda feed: feed.statistics())

    # Waiting ----------------------------------------------------------------------------------------------------

    def wait_connected(self, *, timeout_s: float | None = None) -> None:
        """Wait until there is a connection. NoAnswer."""
        self._loop.do(self._feed.wait_connected(timeout_s=timeout_s))

    def wait_for(self, product: str, channel: str, *, timeout_s: float | None = _ANSWER_S) -> None:
        """Wait until a stream has its state. NotSubscribed, NoAnswer."""
        self._loop.do(self._feed.wait_for(product, channel, timeout_s=timeout_s))

    def wait_for_book(self, product: str, *, timeout_s: float | None = _ANSWER_S) -> Book:
        """The book of a product, as soon as it is there: a copy. NotSubscribed, NoAnswer."""

        async def wait() -> Book:
            return (await self._feed.wait_for_book(product, timeout_s=timeout_s)).copy()

        return self._loop.do(wait())

    def drop(self, reason: str = "dropped") -> None:
        """Cut the connection, without a goodbye; it is made again and everything is resumed."""
        self._ask(lambda feed: feed.drop(reason))

    # Inside -----------------------------------------------------------------------------------------------------

    def _ask[T](self, question: Callable[[Feed], T]) -> T:
        async def ask() -> T:
            return question(self._feed)

        return self._loop.do(ask())


class SyncEvents:
    """What `for` goes through."""

    def __init__(
        self, do: Callable[[Coroutine[object, object, Event | None]], Event | None], events: aio.Events
    ) -> None:
        self._do = do
        self._events = events

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            event = self._do(_next(self._events))
        except FeedClosed:
            event = None
        if event is None:
            raise StopIteration
        return event


async def _next(events: aio.Events) -> Event | None:
    try:
        return await anext(events)
    except StopAsyncIteration:
        return None


async def _awaited(connecting: aio.Connecting) -> Feed:
    return await connecting


@atexit.register
def _close_all() -> None:
    for feed in list(_open_feeds):
        feed.close()
