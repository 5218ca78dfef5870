"""Two ingestors of one shard, and backfills, with real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from lfmesh.core.codec import RawRecord, RecordKind
from lfmesh.core.liveness import SILENT_INGESTOR
from lfmesh.messages import BackfilledTrade, BackfillPage, BackfillRequest
from lfmesh.types import Channel
from tests.aio import eventually, run
from tests.services.normalizer.kit import BTC, T0, Ingestor, Mesh, config, heartbeat, match, mesh, record, snapshot

OTHER = "ingestor-B"


@asynccontextmanager
async def pair(**keys: object) -> AsyncIterator[tuple[Mesh, Ingestor, Ingestor]]:
    """A normalizer and two ingestors, which have brought trade 1 and a book each; A's is published."""
    async with mesh(config(**keys)) as here:
        await here.join()
        first, second = here.ingestor, here.new_ingestor(instance=OTHER)
        here.service.on_peers([first.service, second.service])
        await second.connect(here.service.endpoints()["raw"])
        first.push(snapshot(), match(1))
        await eventually(lambda: here.listener.trade_ids())
        second.push(snapshot(bids=(("98", "1"),)), match(1))
        await eventually(lambda: here.service.statistics().dropped_total.get("other_line"))
        yield here, first, second


def page(request: BackfillRequest, *, complete: bool = True) -> RawRecord:
    first, last = request.from_trade_id, request.to_trade_id
    rows = [BackfilledTrade(number, "100.10", "0.5", "buy", T0) for number in range(first, last + 1)]
    body = msgspec.json.encode(BackfillPage(request.product, first, last, rows, complete, last))
    return record(body, RecordKind.BACKFILL)


def test_missing_trades_are_fetched_through_the_ingestor() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(match(1), match(5))
            await eventually(lambda: here.ingestor.asked(BackfillRequest))
            (request,) = here.ingestor.asked(BackfillRequest)
            assert request == BackfillRequest(BTC, 2, 4)
            here.ingestor.push(page(request))
            await eventually(lambda: len(here.listener.trade_ids()) == 5)
            assert here.listener.trade_ids() == [1, 2, 3, 4, 5]
            bodies = here.listener.bodies(BTC, Channel.TRADES)
            assert [body["continuity"] for body in bodies[1:]] == ["unverified", *["backfilled"] * 3, "verified"]
            await eventually(lambda: len(here.listener.statuses(BTC, Channel.TRADES)) >= 2)
            statistics = here.service.statistics()
            assert (statistics.trade_gaps_total, statistics.backfill_requests_total) == (1, 1)
            assert statistics.trades_recovered_total["rest"] == 3
            assert statistics.trades_held == 0

    run(scenario())


def test_a_heartbeat_brings_a_loss_to_light_on_a_quiet_product() -> None:
    async def scenario() -> None:
        async with mesh(config(backfill_after_s=0.1)) as here:
            await here.join()
            here.ingestor.push(match(1), heartbeat(5000, last_trade_id=3))
            await eventually(lambda: here.ingestor.asked(BackfillRequest))
            here.ingestor.push(page(here.ingestor.asked(BackfillRequest)[0]))
            await eventually(lambda: here.listener.trade_ids() == [1, 2, 3])

    run(scenario())


def test_what_nobody_gives_is_declared_in_time() -> None:
    async def scenario() -> None:
        async with mesh(config(backfill_timeout_s=0.3)) as here:
            await here.join()
            here.ingestor.push(match(1), match(5))
            await eventually(lambda: here.listener.trade_ids() == [1, 5])
            gap = here.listener.bodies(BTC, Channel.TRADES)[2]
            assert (gap["reason"], gap["missing"]) == ("gap", {"from_trade_id": 2, "to_trade_id": 4})
            await eventually(lambda: "trades flow again" in here.events())
            assert here.service.statistics().trades_recovered_total["declared"] == 3

    run(scenario())


def test_an_ingestor_that_refuses_leaves_the_backfill_to_the_other() -> None:
    async def scenario() -> None:
        async with pair() as (here, first, second):
            first.refuses_backfills = second.refuses_backfills = True
            first.push(match(5))
            second.push(match(5))
            await eventually(lambda: first.asked(BackfillRequest) and second.asked(BackfillRequest))
            await eventually(lambda: here.service.statistics().backfills_refused_total == 2)
            assert here.listener.trade_ids() == [1]

    run(scenario())


def test_a_dead_ingestor_costs_no_trade_and_its_book_gives_way() -> None:
    async def scenario() -> None:
        async with pair() as (here, first, second):
            first.fall_silent()
            second.push(match(2), match(3))
            await eventually(lambda: len(here.listener.bodies(BTC, Channel.BOOK)) == 2)
            opened, changed = here.listener.bodies(BTC, Channel.BOOK)
            assert (opened["reason"], changed["reason"]) == ("epoch", "resync")
            assert changed["state"]["bids"] == [[98, 1]]
            assert here.listener.trade_ids() == [1, 2, 3]
            assert here.service.statistics().line_changes_total == {SILENT_INGESTOR: 1}
            assert "books change to the other line" in here.events()
            assert here.listener.statuses(BTC, Channel.TRADES) == []
            assert first.resyncs == second.resyncs == [], "nobody resubscribes"

    run(scenario())


def test_a_lagging_line_is_left() -> None:
    async def scenario() -> None:
        async with pair(line_lag_s=0.2) as (here, _, second):
            second.push(match(2))
            await eventually(lambda: len(here.listener.bodies(BTC, Channel.BOOK)) == 2)
            assert here.listener.bodies(BTC, Channel.BOOK)[1]["state"]["bids"] == [[98, 1]]

    run(scenario())
