"""A normalizer that was alone and comes back: it goes on in its epochs where that is proof, and nowhere else."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from lfmesh.core.codec import Flags, MarketFrame, RecordKind
from lfmesh.core.topics import parse_market_data
from lfmesh.messages import ReplayRequest
from lfmesh.services.snapshotter.answers import PAGE_BYTES
from lfmesh.types import Channel, StreamKey
from tests.aio import eventually, run
from tests.services.normalizer import kit
from tests.services.normalizer.kit import Listener, link, record
from tests.services.normalizer.shard import PRODUCTS, Feeder, Shard, shard, without_time

NAME, SNAPSHOTTER = "normalizer-0", "snapshotter-0"
OPTIONS = {"restore_timeout_s": 1.0, "backfill_timeout_s": 0.3}


async def alone(here: Shard) -> Listener:
    """One normalizer and its snapshotter, which knows how far everything is; everything published is listened to."""
    await here.add_snapshotter()
    await here.add(NAME)
    await eventually(lambda: here.normalizers[NAME].active)
    listener = Listener(here.transport, here.normalizers[NAME].endpoints()["market_data"])
    await eventually(lambda: listener.beacons)
    await here.opened()
    await here.run(0.3)
    await eventually(lambda: here.snapshotters[SNAPSHOTTER]._intake.believes)
    return listener


async def come_back(here: Shard, *, meanwhile: Callable[[], None] = lambda: None) -> Listener:
    """What is published after the snapshotter's link is cut is lost with the process, and made again by the next."""
    here.deafen(SNAPSHOTTER)
    await here.run(0.5)
    await here.quiet()
    here.kill(NAME)
    here.ingestor.say(100)
    meanwhile()
    service = await here.add(NAME)
    listener = Listener(here.transport, service.endpoints()["market_data"])
    await eventually(lambda: service.active and listener.beacons)
    return listener


def numbered(frames: list[MarketFrame]) -> dict[tuple[StreamKey, int, int], bytes]:
    """Every message by its position; an epoch's snapshot is its number 0."""
    found: dict[tuple[StreamKey, int, int], bytes] = {}
    for frame in frames:
        if not frame.header.flags & Flags.STATUS:
            key = parse_market_data(frame.topic)[1]
            for seq, message in enumerate(frame.messages, frame.header.first_seq):
                found[key, frame.header.epoch, seq] = message
    return found


def test_with_one_line_every_stream_goes_on_and_says_again_what_was_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, **OPTIONS) as here:
            first = await alone(here)
            second = await come_back(here)
            await here.run(0.3)
            await here.quiet()
            here.check()
            assert here.consumer.breaks == []
            assert {len(epochs) for epochs in here.consumer.all_epochs().values()} == {1}
            before, after = numbered(first.frames), numbered(second.frames)
            again = before.keys() & after.keys()
            channels: defaultdict[Channel, int] = defaultdict(int)
            for at in again:
                channels[at[0].channel] += 1
                assert without_time(before[at]) == without_time(after[at])
            assert all(channels[channel] > 50 for channel in Channel), "much was made again"
            assert not [frame for frame in second.frames if frame.header.flags & Flags.SNAPSHOT]
            assert here.events(NAME).count("running") == 1
            asked = here.ingestor.asked(ReplayRequest)[-1]
            assert asked.first_number > 1, "only what is not in the restored states is read again"

    run(scenario(), timeout=60)


def test_the_records_after_the_restored_ones_are_gone_so_books_and_tickers_begin_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, **OPTIONS) as here:
            await alone(here)
            epochs = here.consumer.all_epochs()

            def forget() -> None:
                here.ingestor.oldest = len(here.ingestor.records) - 20

            await come_back(here, meanwhile=forget)
            await eventually(lambda: set(here.ingestor.resyncs) == set(PRODUCTS))
            opening = here.ingestor.exchange.opening()
            here.ingestor.push(*(frame for frame in opening if b'"snapshot"' in frame))
            await here.run(0.5)
            await eventually(
                lambda: all(here.consumer.book(one) == here.ingestor.exchange.book(one) for one in PRODUCTS)
            )
            here.consumer.check_order()
            now = here.consumer.all_epochs()
            for product in PRODUCTS:
                assert len(now[product, Channel.BOOK]) == len(epochs[product, Channel.BOOK]) + 1
                assert len(now[product, Channel.TICKER]) == len(epochs[product, Channel.TICKER]) + 1
                ids = here.consumer.trade_ids(product)
                assert ids == sorted(set(ids))
                missing = [body["missing"] for body in here.consumer.of(product, Channel.TRADES) if "missing" in body]
                gone = sorted(set(range(1001, ids[-1] + 1)) - set(ids))
                declared = [
                    number
                    for one in missing
                    for number in range(int(one["from_trade_id"]), int(one["to_trade_id"]) + 1)
                ]
                assert gone
                assert set(gone) <= set(declared), "what is lost is declared, with what its predecessor had said last"

    run(scenario(), timeout=60)


def test_an_ingestor_that_was_restarted_too_proves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, **OPTIONS) as here:
            await alone(here)
            epochs = here.consumer.all_epochs()
            old = here.ingestor

            def restart() -> None:
                old.fall_silent()
                here.ingestor = Feeder(here.transport, incarnation=old.incarnation + 1)
                here.ingestor.exchange = old.exchange

            await here.run(0.2)
            await here.quiet()
            await here.snapshotters_agree()
            here.kill(NAME)
            restart()
            await here.add(NAME)
            here.ingestor.push(*here.ingestor.exchange.opening())
            await here.run(0.5)
            await here.quiet()
            here.check()
            now = here.consumer.all_epochs()
            for product in PRODUCTS:
                assert len(now[product, Channel.BOOK]) == len(epochs[product, Channel.BOOK]) + 1
                assert len(now[product, Channel.TICKER]) == len(epochs[product, Channel.TICKER]) + 1
                assert now[product, Channel.TRADES] == epochs[product, Channel.TRADES], "ids prove what follows"

    run(scenario(), timeout=60)


def test_a_book_that_was_lost_meanwhile_is_lost_again(tmp_path: Path) -> None:
    """The connection's loss is a record like any other: who reads it again comes to the same end."""

    async def scenario() -> None:
        async with shard(tmp_path, **OPTIONS) as here:
            await alone(here)

            def lose_and_reconnect() -> None:
                here.ingestor.push(link(RecordKind.LINK_DOWN, *PRODUCTS), link(RecordKind.LINK_UP, *PRODUCTS))
                here.ingestor.push(*(record(frame) for frame in here.ingestor.exchange.opening()))

            await come_back(here, meanwhile=lose_and_reconnect)
            await here.run(0.3)
            await here.quiet()
            here.check()
            for product in PRODUCTS:
                assert len(here.consumer.epochs(product, Channel.BOOK)) == 2
                assert len(here.consumer.epochs(product, Channel.TICKER)) == 1
                assert len(here.consumer.epochs(product, Channel.TRADES)) == 1

    run(scenario(), timeout=60)


def test_the_newest_of_what_two_snapshotters_know_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, **OPTIONS) as here:
            await here.add_snapshotter("snapshotter-0-b")
            await alone(here)
            here.deafen("snapshotter-0-b")
            await here.run(0.5)
            await here.quiet()
            await here.snapshotters_agree_of(SNAPSHOTTER)
            here.kill(NAME)
            await here.add(NAME)
            await eventually(lambda: here.normalizers[NAME].active)
            reached = len(here.ingestor.records)
            await here.run(0.3)
            await here.quiet()
            here.check()
            assert here.consumer.breaks == []
            asked = here.ingestor.asked(ReplayRequest)
            assert not asked or asked[-1].first_number > reached - 200
            here.cure("snapshotter-0-b")
            await here.snapshotters_agree()

    run(scenario(), timeout=60)
    assert sorted(path.name for path in tmp_path.glob("*.sqlite")) == [
        "state-shard-0-snapshotter-0-b.sqlite",
        "state-shard-0.sqlite",
    ]


def test_a_snapshotter_that_comes_back_has_it_from_its_store_and_the_ring(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, **OPTIONS) as here:
            await alone(here)
            snapshotter = here.snapshotters.pop(SNAPSHOTTER)
            await snapshotter.stop()
            await here.run(0.5)
            await here.quiet()
            again = await here.add_snapshotter()
            await here.snapshotters_agree()
            statistics = again.statistics()
            assert statistics.recoveries_total.get("retransmit", 0) >= len(PRODUCTS)
            assert statistics.recoveries_total.get("snapshot", 0) == 0
            await eventually(lambda: again._intake.believes)
            here.kill(NAME)
            await here.add(NAME)
            await here.run(0.3)
            await here.quiet()
            here.check()
            assert here.consumer.breaks == []
            assert {len(epochs) for epochs in here.consumer.all_epochs().values()} == {1}

    run(scenario(), timeout=60)


def test_hundreds_of_deep_books_are_restored_over_several_pages(tmp_path: Path) -> None:
    """More than one answer holds: the first pages' states are older than the last ones', and all go on."""

    async def scenario() -> None:
        names = tuple(f"P{number}-USD" for number in range(200))
        async with shard(tmp_path, **OPTIONS) as here:
            here.products = names
            await here.add_snapshotter()
            await here.add(NAME)
            await eventually(lambda: here.normalizers[NAME].active)
            for name in names:
                bids = [(f"{100 + level}.123456", "1.50000000") for level in range(400)]
                asks = [(f"{600 + level}.123456", "1.50000000") for level in range(400)]
                here.ingestor.push(kit.snapshot(name, bids, asks), kit.match(7, name, kind="last_match"))
            await eventually(lambda: all(here.consumer.of(name, Channel.BOOK) for name in names))
            await eventually(lambda: here.snapshotters[SNAPSHOTTER]._intake.believes)
            size = sum(len(state.content.text()) for state in here.snapshotters[SNAPSHOTTER]._intake.state)
            assert size > 3 * PAGE_BYTES
            here.kill(NAME)
            for name in names:
                here.ingestor.push(kit.match(8, name), kit.update(("buy", "99.5", "7"), product=name))
            await here.add(NAME)
            await eventually(lambda: all(8 in here.consumer.trade_ids(name) for name in names))
            await eventually(lambda: all(here.consumer.of(name, Channel.BOOK)[-1]["seq"] == "1" for name in names))
            for name in names:
                for channel in Channel:
                    assert len(here.consumer.epochs(name, channel)) == 1
            endpoint = here.normalizers[NAME].endpoints()["requests"]
            _, book = await here.snapshot(endpoint, names[-1], Channel.BOOK) or (None, {"bids": []})
            assert len(book["bids"]) == 401
            assert here.snapshotters[SNAPSHOTTER].statistics().requests_total["summaries"] > 3

    run(scenario(), timeout=60)
