"""Trades lost on the wire, fetched over the simulator's REST: over real sockets on both sides."""

import json
from itertools import pairwise
from typing import Any

from lfmesh.core.sharding import shard_of
from lfmesh.errors import BadVenueFrame
from lfmesh.messages import BackfilledTrade, BackfillPage, BackfillRequest, Rejected, Reply
from lfmesh.transport import Requester
from lfmesh.types import Trade
from lfmesh.venues.coinbase.parse import parse, to_ns
from loadgen.sim import Fault, SimConfig, Simulator, VenueChannel
from tests.aio import eventually, run
from tests.services.ingestor.ends import Normalizer, ask
from tests.services.ingestor.test_with_simulator import SHARDS, Mesh, mesh


def silenced(
    products: int = 3, count: int = 6000, rest_rate_per_s: float = 1000.0, rest_burst: int = 1000
) -> SimConfig:
    """A model that plays `count` messages once it is started, of which no match of BTC-USD arrives."""
    fault = Fault(kind="lose", share=1.0, channels=frozenset({VenueChannel.MATCHES}), products=frozenset({"BTC-USD"}))
    return SimConfig(
        product_count=products,
        count=count,
        rate_msgs_s=20_000,
        start_paused=True,
        faults=(fault,),
        rest_rate_per_s=rest_rate_per_s,
        rest_burst=rest_burst,
    )


async def played(around: Mesh) -> None:
    await around.running.ready()
    around.sim.start()
    await around.sim.wait_finished()
    around.sim.pause()


def normalizer_of(around: Mesh, product: str) -> Normalizer:
    return around.normalizers[shard_of(product, SHARDS)]


def requester_of(around: Mesh) -> Requester:
    return Requester(around.transport, around.running.service.endpoints()["requests"])


def truth(sim: Simulator, product: str, first: int, last: int) -> list[BackfilledTrade]:
    """The simulator's own list of these trades; sides turned, since it has the maker's."""
    taker: dict[str, Any] = {"buy": "sell", "sell": "buy"}
    rows = [json.loads(row) for row in sim.trades_after(product, first - 1)]
    return [
        BackfilledTrade(row["trade_id"], row["price"], row["size"], taker[row["side"]], to_ns(row["time"]))
        for row in rows
        if row["trade_id"] <= last
    ]


async def pages(around: Mesh, product: str, ends: int = 1) -> list[BackfillPage]:
    """The pages of a product that have come, once so many backfills are complete."""
    normalizer = normalizer_of(around, product)

    def mine() -> list[BackfillPage]:
        return [page for page in normalizer.pages() if page.product == product]

    await eventually(lambda: sum(page.complete for page in mine()) >= ends)
    return mine()


def test_lost_trades_come_in_pages_from_the_newest_downward() -> None:
    async def main() -> None:
        async with mesh(silenced(products=1, count=20_000)) as around:
            await played(around)
            last = around.sim.truth("BTC-USD").last_trade_id
            assert last is not None
            first = around.sim.trades_after("BTC-USD", 0)
            oldest = json.loads(first[0])["trade_id"] + 1
            assert last - oldest > 1200  # more than a page
            wish = BackfillRequest("BTC-USD", oldest, last)
            assert (await ask(requester_of(around), wish))[0] == Reply()
            came = await pages(around, "BTC-USD")
            assert [(page.from_trade_id, page.to_trade_id) for page in came] == [
                (last - 999, last),
                (oldest, last - 1000),
            ]
            assert [page.complete for page in came] == [False, True]
            assert {page.problem for page in came} == {""}
            assert {page.newest_trade_id for page in came} == {last}
            trades = [trade for page in reversed(came) for trade in page.trades]
            assert trades == truth(around.sim, "BTC-USD", oldest, last)
            statistics = around.running.service.statistics()
            assert statistics.backfill_pages_total == statistics.rest_requests_total == 2
            assert statistics.backfill_trades_total == len(trades)
            assert (statistics.backfills_finished_total, statistics.backfills_waiting) == (1, 0)

    run(main())


def test_many_small_gaps_cost_few_requests() -> None:
    async def main() -> None:
        lossy = Fault(kind="lose", share=0.1, channels=frozenset({VenueChannel.MATCHES}))
        simulator = SimConfig(
            product_count=2, count=8000, rate_msgs_s=20_000, start_paused=True, faults=(lossy,), rest_burst=1000
        )
        async with mesh(simulator) as around:
            await played(around)
            await around.settled()
            requester = requester_of(around)
            asked = 0
            for product in around.sim.products:
                last = around.sim.truth(product).last_trade_id
                assert last is not None
                brought = [event.trade_id for event in matches(around, product)]
                known = [*brought, last + 1]
                gaps = [(one + 1, other - 1) for one, other in pairwise(known) if other > one + 1]
                assert len(gaps) > 10
                for first, to in gaps:
                    assert (await ask(requester, BackfillRequest(product, first, to)))[0] == Reply()
                asked += len(gaps)
                came = await pages(around, product, ends=len(gaps))
                assert sorted((page.from_trade_id, page.to_trade_id) for page in came) == gaps
                fetched = [trade for page in came for trade in page.trades]
                everything = sorted([trade.trade_id for trade in fetched] + brought)
                assert everything == list(range(brought[0], last + 1))
                for page in came:
                    assert page.trades == truth(around.sim, product, page.from_trade_id, page.to_trade_id)
            statistics = around.running.service.statistics()
            assert statistics.backfills_finished_total == asked
            assert statistics.rest_requests_total < asked / 2

    run(main())


def matches(around: Mesh, product: str) -> list[Trade]:
    """The trades of a product that came over the feed."""
    found = []
    for body in normalizer_of(around, product).bodies():
        try:
            event = parse(body)
        except BadVenueFrame:  # what `settled` put in
            continue
        if isinstance(event, Trade) and event.product == product:
            found.append(event)
    return found


def test_what_the_list_does_not_show_yet_is_not_in_the_page() -> None:
    async def main() -> None:
        async with mesh(silenced()) as around:
            await played(around)
            last = around.sim.truth("BTC-USD").last_trade_id
            assert last is not None
            around.sim.begin_fault(Fault(kind="hide", count=4))
            wish = BackfillRequest("BTC-USD", last - 9, last)
            requester = requester_of(around)
            assert (await ask(requester, wish))[0] == Reply()
            (page,) = await pages(around, "BTC-USD")
            # Ten rows were asked for below last + 1: the venue's newest ten, four of which it hides.
            assert page.trades == truth(around.sim, "BTC-USD", last - 9, last - 4)
            assert (page.from_trade_id, page.to_trade_id, page.complete) == (last - 9, last, True)
            assert (page.newest_trade_id, page.problem) == (last - 4, "")
            around.sim.clear_faults()
            assert (await ask(requester, wish))[0] == Reply()  # it is over, and so asked anew
            *_, page = await pages(around, "BTC-USD", ends=2)
            assert page.trades == truth(around.sim, "BTC-USD", last - 9, last)

    run(main())


def test_ids_that_are_not_given_out_yet() -> None:
    async def main() -> None:
        async with mesh(silenced()) as around:
            await played(around)
            last = around.sim.truth("BTC-USD").last_trade_id
            assert last is not None
            wish = BackfillRequest("BTC-USD", last + 1, last + 50)
            assert (await ask(requester_of(around), wish))[0] == Reply()
            (page,) = await pages(around, "BTC-USD")
            assert page == BackfillPage("BTC-USD", last + 1, last + 50, [], True, last, "")

    run(main())


def test_the_venue_limits_us() -> None:
    async def main() -> None:
        # The venue gives three, and then ten a second; we believe in far more.
        simulator = silenced(products=10, rest_rate_per_s=10, rest_burst=3)
        async with mesh(simulator, rest_requests_per_s=500.0, rest_burst=100) as around:
            await played(around)
            requester = requester_of(around)
            for product in around.sim.products:
                last = around.sim.truth(product).last_trade_id or 1
                assert (await ask(requester, BackfillRequest(product, max(1, last - 5), last)))[0] == Reply()
            for product in around.sim.products:
                (page,) = await pages(around, product)
                assert page.problem == ""
                last = around.sim.truth(product).last_trade_id or 1
                assert page.trades == truth(around.sim, product, page.from_trade_id, last)
            statistics = around.running.service.statistics()
            assert statistics.rest_limited_total >= 1
            assert statistics.rest_requests_total == 10 + statistics.rest_limited_total
            assert len(around.running.logged("the venue limits our REST requests")) == 1

    run(main())


def test_our_own_limit_keeps_to_the_venue() -> None:
    async def main() -> None:
        async with mesh(silenced(products=20, rest_rate_per_s=10, rest_burst=15)) as around:  # and ours by default
            await played(around)
            requester = requester_of(around)
            for product in around.sim.products:
                assert (await ask(requester, BackfillRequest(product, 1, 1)))[0] == Reply()
            for product in around.sim.products:
                await pages(around, product)
            statistics = around.running.service.statistics()
            assert (statistics.rest_limited_total, statistics.rest_requests_total) == (0, 20)

    run(main())


def test_rest_that_fails_says_so_and_is_back() -> None:
    async def main() -> None:
        async with mesh(silenced(), rest_timeout_s=0.5) as around:
            await played(around)
            last = around.sim.truth("BTC-USD").last_trade_id
            assert last is not None
            requester = requester_of(around)
            wish = BackfillRequest("BTC-USD", last - 3, last)
            around.sim.begin_fault(Fault(kind="fail"))
            assert (await ask(requester, wish))[0] == Reply()
            assert (await ask(requester, wish))[0] == Reply()  # the same one: nothing is done twice
            (end,) = await pages(around, "BTC-USD")
            assert end.problem == "the venue's REST API is down: HTTP 503 Service Unavailable"
            assert end == BackfillPage("BTC-USD", last - 3, last, [], True, 0, end.problem)
            statistics = around.running.service.statistics()
            assert statistics.backfill_known_total == 1
            assert statistics.backfills_unfinished_total["rest_down"] == 1
            assert statistics.rest_failures_total["http_5xx"] >= 4
            assert statistics.rest_down == 1
            (down,) = around.running.logged("the venue's REST API is down")
            assert down["reason"] == "HTTP 503 Service Unavailable"

            around.sim.clear_faults()
            assert (await ask(requester, wish))[0] == Reply()
            *_, page = await pages(around, "BTC-USD", ends=2)
            assert page.trades == truth(around.sim, "BTC-USD", last - 3, last)
            assert len(around.running.logged("the venue's REST API answers again")) == 1
            assert around.running.service.statistics().rest_down == 0

    run(main())


def test_a_slow_venue_is_given_up_in_time() -> None:
    async def main() -> None:
        async with mesh(silenced(), rest_timeout_s=0.1) as around:
            await played(around)
            around.sim.begin_fault(Fault(kind="slow", delay_s=1.0))
            assert (await ask(requester_of(around), BackfillRequest("BTC-USD", 1, 5)))[0] == Reply()
            (end,) = await pages(around, "BTC-USD")
            assert end.problem == "the venue's REST API is down: no answer within 0.1 s"
            assert around.running.service.statistics().rest_failures_total["timeout"] >= 4

    run(main())


def test_a_product_of_somebody_else() -> None:
    async def main() -> None:
        async with mesh(silenced()) as around:
            await around.running.ready()
            answer, _ = await ask(requester_of(around), BackfillRequest("DOGE-EUR", 1, 5))
            assert answer == Rejected("DOGE-EUR is not carried by this ingestor")

    run(main())


def test_the_feed_flows_on_while_trades_are_fetched() -> None:
    async def main() -> None:
        async with mesh(silenced(count=4000)) as around:
            await played(around)
            last = around.sim.truth("BTC-USD").last_trade_id
            assert last is not None
            around.sim.begin_fault(Fault(kind="slow", delay_s=0.3))
            assert (await ask(requester_of(around), BackfillRequest("BTC-USD", last - 5, last)))[0] == Reply()
            await around.settled()  # a frame of each product has come through meanwhile
            assert not normalizer_of(around, "BTC-USD").pages()
            around.sim.clear_faults()
            assert (await pages(around, "BTC-USD"))[0].complete

    run(main())
