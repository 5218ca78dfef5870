"""One connection alone; what it does with others is tested with the ingestor."""

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from lfmesh.config import VenueSection
from lfmesh.core.limits import RequestSchedule
from lfmesh.venues.coinbase.connection import FeedConnection, ws_schedule
from lfmesh.venues.coinbase.protocol import Stray
from tests.aio import eventually, run
from tests.services.ingestor.ends import Venue, update

CHANNELS = ("ticker", "level2_batch")


class Owner:
    """Keeps what it is told and what comes, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None

    def link_up(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        self.told.append(("up", connection, products, reason))

    def link_down(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        self.told.append(("down", connection, products, reason))

    def strayed(self, connection: int, why: Stray, frame: bytes) -> None:
        assert frame
        self.told.append((why, connection))

    def add(self, ts_ingest: int, frame: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append((ts_ingest, frame))


def connection(
    owner: Owner, url: str, number: int = 0, schedule: RequestSchedule | None = None, **venue: object
) -> FeedConnection:
    section = VenueSection.model_validate({"ws_url": url, "channels": CHANNELS, "backoff_max_s": 0.1, **venue})
    log = structlog.wrap_logger(None, processors=[LogCapture()], wrapper_class=structlog.make_filtering_bound_logger(0))
    schedule = schedule or ws_schedule(section)
    lanes = {b"BTC-USD": owner}
    return FeedConnection(
        number, lanes, section, owner, schedule=schedule, clock=lambda: 7, random=lambda: 0.5, log=log
    )


def test_events_and_frames_come_in_order() -> None:
    async def main() -> None:
        async with Venue() as venue:
            venue.snapshots = False
            owner = Owner()
            feed = connection(owner, venue.url, number=3)
            assert feed.problems() == ["connection 3 to the venue is down: not tried yet"]
            feed.resync(["BTC-USD"])  # nothing to do while it is down
            task = asyncio.create_task(feed.run())
            await eventually(lambda: feed.up)
            assert feed.problems() == []
            await venue.say(update("BTC-USD", 1))
            await eventually(lambda: len(owner.told) == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert owner.told == [
                (Stray.SUBSCRIPTIONS, 3),
                ("up", 3, ("BTC-USD",), "subscribed"),
                (7, update("BTC-USD", 1).encode()),
                ("down", 3, ("BTC-USD",), "the ingestor ends"),
            ]
            await eventually(lambda: not venue.connections)
            assert feed.counters.resyncs == 0

    run(main())


def test_a_fault_of_our_own_is_not_taken_for_one_of_the_venue() -> None:
    async def main() -> None:
        async with Venue() as venue:
            owner = Owner()
            owner.failure = RuntimeError("a bug")
            loop = asyncio.get_running_loop()
            complaints: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            with pytest.raises(RuntimeError, match="a bug"):
                await connection(owner, venue.url).run()
            assert venue.connected_total == 1

    run(main())


def test_each_way_to_fail_to_connect_is_said() -> None:
    async def main() -> None:
        head = b""

        async def not_a_venue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(not_a_venue, "127.0.0.1", 0)
        async with server:
            refusing = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            cases = (
                (refusing, b"HTTP/1.1 429 Too Many Requests", "HTTP 429"),
                (refusing, b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere:99999", "Port out of range"),
                (refusing, b"nonsense", "cannot connect"),
                ("ws://127.0.0.1:1", b"", "Connect call failed"),
            )
            for url, head, words in cases:  # noqa: B007 - the server writes the head
                feed = connection(Owner(), url)
                task = asyncio.create_task(feed.run())
                await eventually(lambda feed=feed: feed.counters.failed_attempts >= 2)  # type: ignore[misc]
                assert words in feed.problems()[0]
                assert url in feed.problems()[0]
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(main())


def test_connections_keep_the_limit_together() -> None:
    async def main() -> None:
        async with Venue() as venue:
            schedule = RequestSchedule(rate_per_s=1 / 3600, burst=4)
            feeds = [connection(Owner(), venue.url, number, schedule) for number in range(3)]
            tasks = [asyncio.create_task(feed.run()) for feed in feeds]
            await eventually(lambda: feeds[0].up and feeds[1].up)
            assert not feeds[2].up  # two places each: to connect, and to subscribe
            assert venue.connected_total == 2
            assert [feed.counters.requests for feed in feeds] == [2, 2, 0]
            assert [feed.counters.delayed for feed in feeds] == [0, 0, 1]
            await ended(tasks)

    run(main())


def test_resyncs_wait_for_the_limit() -> None:
    async def main() -> None:
        async with Venue() as venue:
            schedule = RequestSchedule(rate_per_s=1 / 3600, burst=4)
            feed = connection(Owner(), venue.url, 0, schedule)
            tasks = [asyncio.create_task(feed.run())]
            await eventually(lambda: feed.up)
            feed.resync(["BTC-USD"])
            await eventually(lambda: len(venue.requests) == 3)
            assert [request["type"] for request in venue.requests] == ["subscribe", "unsubscribe", "subscribe"]
            await eventually(lambda: feed.up)
            await venue.say(*[update("BTC-USD", number) for number in range(3)])
            feed.resync(["BTC-USD"])  # two seconds after the first at the earliest, and then it has no place
            await eventually(lambda: feed.counters.delayed == 1)
            assert len(venue.requests) == 3
            assert feed.up
            await ended(tasks)

    run(main())


def test_a_venue_that_is_away_uses_up_nothing() -> None:
    async def main() -> None:
        schedule = RequestSchedule(rate_per_s=1 / 3600, burst=2)
        feed = connection(Owner(), "ws://127.0.0.1:1", 0, schedule)
        tasks = [asyncio.create_task(feed.run())]
        await eventually(lambda: feed.counters.failed_attempts >= 3)
        assert feed.counters.requests == feed.counters.delayed == 0
        await ended(tasks)

    run(main())


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
