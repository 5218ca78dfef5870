"""Backfills between a normalizer's requests and a venue of a few lines: which requests are made, and what is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from structlog.testing import LogCapture

from lfmesh.config import IngestorSection, VenueSection
from lfmesh.errors import VenueLimited, VenueRefused, VenueUnavailable
from lfmesh.messages import BackfilledTrade, BackfillPage, BackfillRequest, Rejected, Reply, Unavailable
from lfmesh.services.ingestor.backfills import DOWN_AFTER, MAX_UNDER_WAY, Backfills, rest_schedule
from lfmesh.venues.coinbase.rest import TradesPage
from tests.aio import eventually, run

FAST = {"rest_requests_per_s": 1000.0, "rest_burst": 1000}


class Source:
    """Has every trade there is, unless it has a `page` for all. `gate` holds answers back while it is closed.

    `failure` makes what a request raises, if it makes anything.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.failure: Callable[[], Exception | None] = lambda: None
        self.page: TradesPage | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def trades(self, product: str, after: int, limit: int) -> TradesPage:
        self.asked.append((product, after, limit))
        await self.gate.wait()
        if (error := self.failure()) is not None:
            raise error
        if self.page is not None:
            return self.page
        ids = range(after - limit, after)
        return TradesPage([BackfilledTrade(trade_id, "1", "2", "buy", 7) for trade_id in ids], limit, {})

    async def close(self) -> None:
        self.closed += 1


class Under:
    """Backfills that run, with all that they tell."""

    def __init__(self, venue: dict[str, object], ingestor: dict[str, object]) -> None:
        self.source = Source()
        self.pages: list[BackfillPage] = []
        self.log = LogCapture()
        log = structlog.wrap_logger(None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0))
        self.backfills = Backfills(
            VenueSection.model_validate({**FAST, **venue}),
            IngestorSection.model_validate(ingestor),
            self.source,
            self.pages.append,
            random=lambda: 0.01,
            log=log,
        )

    def ask(self, product: str = "A-X", first: int = 1, last: int = 1) -> object:
        return self.backfills.ask(BackfillRequest(product, first, last))

    def logged(self, event: str) -> int:
        return sum(entry["event"] == event for entry in self.log.entries)

    async def told(self, count: int) -> list[BackfillPage]:
        await eventually(lambda: len(self.pages) >= count)
        return self.pages


@asynccontextmanager
async def running(venue: dict[str, object] | None = None, **ingestor: object) -> AsyncIterator[Under]:
    under = Under(venue or {}, ingestor)
    task = asyncio.create_task(under.backfills.run())
    await asyncio.sleep(0)
    try:
        yield under
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert under.source.closed == 1


def test_nothing_is_opened_before_somebody_asks() -> None:
    async def main() -> None:
        async with running() as under:
            await asyncio.sleep(0)
            assert under.source.opened == 0
            assert under.ask(first=10, last=12) == Reply()
            (page,) = await under.told(1)
            assert [trade.trade_id for trade in page.trades] == [10, 11, 12]
            assert (under.source.opened, under.source.asked) == (1, [("A-X", 13, 3)])

    run(main())


def test_it_can_be_ready_before_somebody_asks() -> None:
    async def main() -> None:
        async with running() as under:
            under.backfills.prepare()
            await eventually(lambda: under.source.opened == 1)
            assert under.source.asked == []
            under.ask()
            await under.told(1)
            assert under.source.opened == 1

    run(main())


def test_what_was_asked_before_it_runs_is_not_forgotten() -> None:
    async def main() -> None:
        under = Under({}, {})
        assert under.ask() == Reply()
        task = asyncio.create_task(under.backfills.run())
        await under.told(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_no_range_of_ids() -> None:
    async def main() -> None:
        async with running() as under:
            for first, last in ((0, 1), (2, 1), (1, 2**53), (-5, -1)):
                assert isinstance(under.ask(first=first, last=last), Rejected)
            assert under.backfills.counters.turned_away["bad_range"] == 4
            assert under.backfills.waiting == 0

    run(main())


def test_a_full_queue_turns_away() -> None:
    async def main() -> None:
        async with running(backfill_queue_requests=2) as under:
            under.source.gate.clear()
            assert [under.ask("A-X"), under.ask("B-X")] == [Reply(), Reply()]
            assert under.ask("C-X") == Unavailable("2 backfills wait already")
            assert under.ask("A-X") == Reply()  # known
            under.source.gate.set()
            await under.told(2)
            assert under.ask("C-X") == Reply()
            await under.told(3)
            assert under.backfills.counters.turned_away["queue_full"] == 1
            assert under.backfills.counters.known == 1

    run(main())


def test_few_requests_are_under_way_at_once_and_one_a_product() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.gate.clear()
            for product in ("A-X", "B-X", "C-X", "D-X", "E-X", "F-X"):
                under.ask(product, 1, 3000)
            await eventually(lambda: len(under.source.asked) == MAX_UNDER_WAY)
            await asyncio.sleep(0.05)
            assert [product for product, _, _ in under.source.asked] == ["A-X", "B-X", "C-X", "D-X"]
            under.source.gate.set()
            await eventually(lambda: under.backfills.waiting == 0)
            assert len(under.pages) == 18
            assert sum(page.complete for page in under.pages) == 6

    run(main())


def test_429_stops_everything_for_as_long_as_the_venue_says() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.failure = lambda: VenueLimited(60.0)
            under.ask("A-X")
            await eventually(lambda: under.backfills.counters.limited == 1)
            under.source.failure = lambda: None
            under.ask("B-X")
            await asyncio.sleep(0.3)  # more than the longest doze
            assert len(under.source.asked) == 1
            assert under.pages == []
            assert under.logged("the venue limits our REST requests") == 1

    run(main())


def test_429_without_a_time_is_tried_again_and_costs_no_attempt() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.failure = lambda: VenueLimited(None)
            under.ask("A-X")
            await eventually(lambda: under.backfills.counters.limited >= 6)
            under.source.failure = lambda: None
            (page,) = await under.told(1)
            assert (page.problem, page.complete) == ("", True)
            assert under.logged("the venue limits our REST requests") == 1
            assert under.backfills.counters.failures.total() == 0

    run(main())


def test_a_page_that_fails_now_and_then_is_had_in_the_end() -> None:
    async def main() -> None:
        async with running() as under:
            bad = iter([True, True, True, False, True, False])
            under.source.failure = lambda: VenueUnavailable("timeout", "slow") if next(bad, False) else None
            under.ask("A-X", 1, 2500)
            pages = await under.told(3)
            assert [(page.from_trade_id, page.to_trade_id, page.problem) for page in pages] == [
                (1501, 2500, ""),
                (501, 1500, ""),
                (1, 500, ""),
            ]
            assert under.backfills.counters.failures == {"timeout": 4}
            assert under.logged("the venue's REST API is down") == 0

    run(main())


def test_a_short_trouble_is_waited_for() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.failure = lambda: VenueUnavailable("connection", "nobody there")
            products = [f"P{number}-X" for number in range(8)]
            assert {under.ask(product, 5, 9) for product in products} == {Reply()}
            await eventually(lambda: under.backfills.down)
            assert under.ask("LATE-X") == Reply()
            under.source.failure = lambda: None
            pages = await under.told(9)
            assert {page.problem for page in pages} == {""}
            assert not under.backfills.down
            assert under.logged("the venue's REST API is down") == 1
            assert under.logged("the venue's REST API answers again") == 1

    run(main())


def test_rest_that_stays_down_ends_what_waits_and_then_turns_away() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.failure = lambda: VenueUnavailable("connection", "nobody there")
            assert under.ask("A-X", 5, 9) == under.ask("B-X", 5, 9) == Reply()
            await eventually(lambda: under.backfills.down)
            asked = len(under.source.asked)
            assert asked <= DOWN_AFTER + MAX_UNDER_WAY
            pages = await under.told(2)
            assert sorted(page.product for page in pages) == ["A-X", "B-X"]
            assert all((page.from_trade_id, page.to_trade_id, page.trades) == (5, 9, []) for page in pages)
            assert all(page.complete for page in pages)
            assert {page.problem for page in pages} == {"the venue's REST API is down: nobody there"}

            # Somebody keeps asking; once it lasts too long, one at a time is taken, and the others are turned away.
            down = Unavailable("the venue's REST API is down: nobody there")
            await eventually(lambda: under.ask("A-X") == down)
            await eventually(lambda: under.ask("B-X") == Reply())
            assert under.ask("C-X") == down
            under.source.failure = lambda: None
            await eventually(lambda: under.ask("A-X") == Reply() and not under.backfills.down)
            assert under.logged("the venue's REST API is down") == 1
            assert under.logged("the venue's REST API answers again") == 1
            assert under.backfills.counters.unfinished.keys() == {"rest_down"}

    run(main())


def test_a_refused_product_harms_no_other() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.failure = lambda: VenueRefused("HTTP 404 Not Found")
            for number in range(DOWN_AFTER + 2):
                under.ask(f"P{number}-X")
            pages = await under.told(DOWN_AFTER + 2)
            assert {page.problem for page in pages} == {"refused by the venue: HTTP 404 Not Found"}
            assert not under.backfills.down
            assert under.logged("backfill not finished") == 1  # once a minute and cause

    run(main())


def test_what_waits_for_too_long_ends() -> None:
    async def main() -> None:
        async with running({"rest_requests_per_s": 0.001, "rest_burst": 2}, backfill_max_s=0.2) as under:
            under.ask("A-X")
            under.ask("B-X", 3, 4)
            first, second = await under.told(2)
            assert (first.product, first.problem) == ("A-X", "")
            assert second == BackfillPage("B-X", 3, 4, [], True, 0, "not finished in time")
            assert under.backfills.counters.unfinished == {"overdue": 1}

    run(main())


def test_bad_rows_are_counted_and_shown() -> None:
    async def main() -> None:
        async with running() as under:
            under.source.page = TradesPage([], 2, {"bad_price": 1, "bad_time": 1})
            under.ask("A-X", 1, 2)
            under.ask("B-X", 1, 2)
            await under.told(2)
            assert under.backfills.counters.refused_rows == {"bad_price": 2, "bad_time": 2}
            assert under.logged("trades refused that REST lists") == 1

    run(main())


def test_a_fault_of_our_own_ends_it_loudly() -> None:
    async def main() -> None:
        under = Under({}, {})
        under.source.failure = lambda: RuntimeError("a bug")
        under.ask()
        with pytest.raises(ExceptionGroup) as caught:
            await under.backfills.run()
        assert isinstance(caught.value.exceptions[0], RuntimeError)
        assert under.source.closed == 1

    run(main())


def test_the_share_of_the_venues_limit() -> None:
    for ingestors, rate, burst in ((1, 10, 14), (2, 5, 6), (15, 10 / 15, 1), (16, 10 / 16, 1)):
        schedule = rest_schedule(VenueSection(ingestors_per_address=ingestors))
        assert [schedule.reserve(1, 0.0) for _ in range(burst)] == [0.0] * burst
        assert schedule.reserve(1, 0.0) == pytest.approx(1 / rate)
