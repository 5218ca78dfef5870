"""The service with real sockets: raw records in, market data, beacons and answers out."""

import json
import time

import pytest

from lfmesh import messages
from lfmesh.core import encode, topics
from lfmesh.core.codec import Flags, RawHeader, RawKind, RecordKind, pack_raw, unpack
from lfmesh.core.liveness import SILENT_INGESTOR
from lfmesh.core.sharding import stable_id
from lfmesh.errors import PortInUse
from lfmesh.messages import (
    BackfilledTrade,
    Beacon,
    LookupRequest,
    Rejected,
    ReplayRequest,
    Reply,
    RetransmitRequest,
    ServiceRecord,
    SnapshotReply,
    SnapshotRequest,
    StreamSummary,
    Unavailable,
)
from lfmesh.ports import Figures
from lfmesh.transport import Requester, Server, Transport
from lfmesh.types import NO_INPUT, Channel, InputPosition, Position, Role, StreamKey, Trade
from tests.aio import eventually, run
from tests.services.normalizer.kit import (
    BTC,
    ETH,
    INGESTOR,
    T0,
    TIME_NS,
    Listener,
    Mesh,
    Snapshotter,
    config,
    heartbeat,
    link,
    match,
    mesh,
    snapshot,
    ticker,
    update,
)


def positions_of(beacon: Beacon) -> dict[StreamKey, Position]:
    return {StreamKey(one.product, one.channel): Position(one.epoch, one.seq) for one in beacon.positions}


def test_raw_in_market_data_out() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            before = time.time_ns()
            here.ingestor.push(snapshot(), match(5, kind="last_match"))
            here.ingestor.push(match(6), ticker(9, 6), update(("buy", "99.60", "0.50")), match(1, ETH))
            await eventually(lambda: here.listener.trade_ids(ETH))
            after = time.time_ns()

            opened, trade = here.listener.of(BTC, Channel.TRADES)
            assert (opened.header.flags & Flags.SNAPSHOT, trade.header.flags & Flags.SNAPSHOT) == (Flags.SNAPSHOT, 0)
            header = trade.header
            assert header.instance == stable_id("normalizer-0")
            assert header.input == InputPosition(stable_id(INGESTOR), here.ingestor.incarnation, 6), "the turn's last"
            assert (header.first_seq, header.epoch, header.ts_event) == (1, opened.header.epoch, TIME_NS)
            assert before <= header.ts_publish <= after
            assert {one.header.term for one in here.listener.frames} == {header.term}
            assert before // 1000 - 60_000_000 < header.term <= after // 1000
            assert trade.messages == [
                encode.increment(
                    encode.increment_prefix("trade", BTC, Channel.TRADES, header.epoch),
                    1,
                    (TIME_NS, T0, header.ts_publish),
                    "verified",
                    '{"px":100.10,"qty":0.50000000,"side":"buy","trade_id":6}',
                )
            ]
            _, book = here.listener.of(BTC, Channel.BOOK)
            assert encode.fields_of(book.messages[0]) == b'{"bids":[[99.60,0.50]],"asks":[]}'
            assert here.service.readiness() == []
            statistics = here.service.statistics()
            assert (statistics.accepted_total, statistics.books_held, statistics.products_with_data) == (6, 1, 2)
            assert statistics.published_total["trades"] == 4, "snapshots are messages too"
            figures = here.service.figures()
            assert isinstance(figures, Figures)
            assert figures.messages_in_total == 6
            assert figures.lag_ms is not None

    run(scenario())


def test_what_one_turn_brings_to_a_stream_is_one_frame() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(match(1), *(match(number) for number in range(2, 600)))
            await eventually(lambda: len(here.listener.trade_ids()) == 599)
            counts = [len(one.messages) for one in here.listener.of(BTC, Channel.TRADES)]
            assert counts == [1, 256, 256, 87]
            assert here.listener.trade_ids() == list(range(1, 600))

    run(scenario())


def test_missing_numbers_are_replayed_and_nothing_is_lost_or_doubled() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(match(1), match(2))
            await eventually(lambda: here.listener.trade_ids() == [1, 2])
            here.ingestor.push(match(3), match(4), lose=True)
            here.ingestor.push(match(5))
            await eventually(lambda: here.listener.trade_ids() == [1, 2, 3, 4, 5])
            assert here.ingestor.asked(ReplayRequest)[-1] == ReplayRequest(0, here.ingestor.incarnation, 3, 0)
            here.ingestor.push(match(6), lose=True)
            here.ingestor.beacon()
            await eventually(lambda: here.listener.trade_ids() == [1, 2, 3, 4, 5, 6])
            statistics = here.service.statistics()
            assert statistics.raw_gaps_total == 2
            assert statistics.trade_gaps_total == 0
            assert statistics.raw_records_lost_total == 0

    run(scenario())


def test_a_normalizer_that_comes_late_gets_everything_from_the_start() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            here.ingestor.replay_frames = 40
            here.ingestor.push(snapshot(), *(match(number) for number in range(1, 301)), lose=True)
            await here.join()
            here.ingestor.push(match(301))
            await eventually(lambda: len(here.listener.trade_ids()) == 301)
            assert here.listener.trade_ids() == list(range(1, 302))
            assert len(here.ingestor.asked(ReplayRequest)) > 5, "in several answers, each asking for the next"
            assert here.service.statistics().books_held == 1

    run(scenario())


def test_what_the_ring_has_lost_is_given_up_and_books_are_asked_anew() -> None:
    async def scenario() -> None:
        async with mesh(config(backfill_timeout_s=0.2)) as here:
            await here.join()
            here.ingestor.push(snapshot(), match(1))
            await eventually(lambda: here.listener.trade_ids())
            here.ingestor.push(match(2), match(3), match(4), lose=True)
            here.ingestor.oldest = 5
            here.ingestor.push(match(5), update(("buy", "99.6", "1")))
            await eventually(lambda: here.ingestor.resyncs)
            assert set(here.ingestor.resyncs) == {BTC, ETH}
            await eventually(lambda: here.listener.trade_ids() == [1, 4, 5])
            bodies = here.listener.bodies(BTC, Channel.TRADES)
            assert [body["type"] for body in bodies] == ["snapshot", "trade", "snapshot", "trade", "trade"]
            assert bodies[2]["missing"] == {"from_trade_id": 2, "to_trade_id": 3}
            assert here.service.statistics().raw_records_lost_total == 2
            assert here.listener.bodies(BTC, Channel.BOOK)[-1]["type"] == "snapshot", "the update was not published"
            assert "recovering: BTC-USD" in here.service.readiness()
            here.ingestor.push(snapshot())
            await eventually(lambda: here.service.statistics().books_held == 1)
            assert [one["state"] for one in here.listener.statuses(BTC, Channel.BOOK)] == ["recovering", "live"]

    run(scenario())


def test_a_ring_that_keeps_refusing_is_given_up() -> None:
    async def scenario() -> None:
        async with mesh(config(backfill_timeout_s=0.2)) as here:
            await here.join()
            here.ingestor.push(match(1))
            await eventually(lambda: here.listener.trade_ids())
            here.ingestor.refuses = True
            here.ingestor.push(match(2), lose=True)
            here.ingestor.push(match(3))
            await eventually(lambda: here.service.statistics().raw_records_lost_total)
            here.ingestor.push(match(4))
            await eventually(lambda: 4 in here.listener.trade_ids())
            assert here.service.statistics().raw_held == 0

    run(scenario())


def test_a_new_process_of_the_ingestor_is_followed_and_the_old_one_ignored() -> None:
    async def scenario() -> None:
        async with mesh(config(backfill_timeout_s=0.2)) as here:
            await here.join()
            here.ingestor.push(snapshot(), match(1))
            await eventually(lambda: here.listener.trade_ids() == [1])
            successor = here.new_ingestor(incarnation=11)
            await successor.connect(here.service.endpoints()["raw"])
            here.service.on_peers([successor.service])
            await eventually(lambda: here.listener.statuses(BTC, Channel.BOOK))
            successor.push(snapshot(), match(2))
            await eventually(lambda: here.listener.trade_ids() == [1, 2])
            here.ingestor.push(match(3))
            successor.push(match(4))
            await eventually(lambda: here.listener.trade_ids() == [1, 2, 4])
            statistics = here.service.statistics()
            assert statistics.raw_refused_total["old_incarnation"] >= 1
            assert statistics.books_held == 1
            assert here.listener.bodies(BTC, Channel.BOOK)[-1]["reason"] == "resync"

    run(scenario())


def test_bad_frames_disturb_nothing() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(
                match(1), b"", b"#" * 5_000_000, b'{"type":"match"}', b"[" * 100_000, match(9, "DOGE-USD"), match(2)
            )
            other_shard = RawHeader(RawKind.BATCH, "A", 7, 1, 1, 1, 1, T0)
            assert here.ingestor.pusher is not None
            here.ingestor.pusher.push(b"no raw frame")
            here.ingestor.pusher.push(pack_raw(other_shard, []))
            here.ingestor.push(match(3))
            await eventually(lambda: here.listener.trade_ids() == [1, 2, 3])
            statistics = here.service.statistics()
            assert statistics.bad_frames_total["unknown_product"] == 1
            assert sum(statistics.bad_frames_total.values()) == 5
            assert statistics.validation_rate == 3 / 8
            assert statistics.raw_refused_total == {"bad_frame": 1, "other_shard": 1}

    run(scenario())


def test_beacons_tell_where_the_streams_stand_after_what_they_name() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            assert here.listener.beacons[0].full, "who subscribes hears at once where everything stands"
            here.ingestor.push(match(1), match(2))
            await eventually(lambda: any(one.positions for one in here.listener.beacons))
            stood: dict[StreamKey, Position] = {}
            for one in here.listener.order:
                if isinstance(one, Beacon):
                    assert positions_of(one) == {key: stood[key] for key in positions_of(one)}
                else:
                    header, count = one.header, len(one.messages)
                    last = header.first_seq + (0 if header.flags & Flags.SNAPSHOT else count - 1)
                    stood[topics.parse_market_data(one.topic)[1]] = Position(header.epoch, last)
            told = next(one for one in here.listener.beacons if one.positions)
            assert told.input.number == 2
            assert told.term == here.listener.frames[0].header.term

            count = len(here.listener.beacons)
            await eventually(lambda: len(here.listener.beacons) > count + 11)
            later = here.listener.beacons[count + 1 :]
            assert {len(one.positions) for one in later if one.full} == {2}
            assert {len(one.positions) for one in later if not one.full} == {0}, "nothing has changed"

            second = Listener(here.transport, here.service.endpoints()["market_data"])
            await eventually(lambda: second.beacons)
            assert second.beacons[0].full

    run(scenario())


def test_frames_that_got_lost_are_given_again() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            for number in (1, 2, 3):
                here.ingestor.push(match(number))
                await eventually(lambda: len(here.listener.trade_ids()) == len(here.ingestor.records))
            frames = here.listener.of(BTC, Channel.TRADES)
            epoch = frames[0].header.epoch
            reply, again = await here.ask(RetransmitRequest(BTC, Channel.TRADES, epoch, 1))
            assert reply == Reply()
            assert [json.loads(message)["data"]["seq"] for raw in again for message in unpack(raw).messages] == [2, 3]
            assert await here.ask(RetransmitRequest(BTC, Channel.TRADES, epoch, 3)) == (Reply(), [])
            for position in ((epoch - 1, 5), (epoch, 9), (epoch + 1, 0)):
                reply, _ = await here.ask(RetransmitRequest(BTC, Channel.TRADES, *position))
                assert isinstance(reply, Unavailable)
            reply, _ = await here.ask(RetransmitRequest("DOGE-USD", Channel.TRADES, epoch, 1))
            assert isinstance(reply, Unavailable)
            assert here.service.statistics().requests_total == {"retransmit": 6}

    run(scenario())


def test_a_long_retransmission_comes_in_several_answers() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            bids = tuple((f"{number}.{number:018}", "1.000000000000000000") for number in range(1, 40_000))
            for _ in range(8):
                here.ingestor.push(snapshot(bids=bids, asks=(("50000", "1"),)))
            await eventually(lambda: len(here.listener.of(BTC, Channel.BOOK)) == 8)
            first = here.listener.of(BTC, Channel.BOOK)[0].header
            reply, frames = await here.ask(RetransmitRequest(BTC, Channel.BOOK, first.epoch, 0))
            assert reply == Reply(more=True)
            assert 0 < sum(map(len, frames[:-1])) <= 8 * 1024 * 1024

    run(scenario())


def test_snapshots_are_given_from_the_own_state() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            assert (await here.ask(SnapshotRequest(BTC, Channel.BOOK)))[0] == Unavailable("no data yet")
            here.ingestor.push(snapshot(), update(("buy", "99.6", "0.50")), match(1))
            await eventually(lambda: here.listener.trade_ids())
            expected = {
                Channel.BOOK: b'{"bids":[[99.6,0.50],[99.50,2]],"asks":[[101.0,1]]}',
                Channel.TRADES: (
                    b'{"trades":[{"px":100.10,"qty":0.50000000,"side":"buy","trade_id":1}],"last_trade_id":1}'
                ),
                Channel.TICKER: (
                    b'{"last_trade":{"px":100.10,"qty":0.50000000,"side":"buy","trade_id":1},'
                    b'"best_bid":{"px":99.6,"qty":0.50},"best_ask":{"px":101.0,"qty":1}}'
                ),
            }
            for channel, state in expected.items():
                reply, parts = await here.ask(SnapshotRequest(BTC, channel))
                assert isinstance(reply, SnapshotReply)
                assert parts == [state]
                newest = here.listener.of(BTC, channel)[-1].header
                seq = newest.first_seq + len(here.listener.of(BTC, channel)[-1].messages) - 1
                assert (reply.term, reply.epoch, reply.seq) == (newest.term, newest.epoch, seq)
                assert reply.input.number <= 3
            here.ingestor.push(update(("buy", "102", "1")))
            await eventually(lambda: here.listener.statuses(BTC, Channel.BOOK))
            assert isinstance((await here.ask(SnapshotRequest(BTC, Channel.BOOK)))[0], Unavailable)
            assert isinstance((await here.ask(SnapshotRequest("DOGE-USD", Channel.BOOK)))[0], Unavailable)

    run(scenario())


def test_other_requests_are_rejected() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            assert isinstance((await here.ask(LookupRequest()))[0], Rejected)
            requester = Requester(here.transport, here.service.endpoints()["requests"])
            (header,) = await requester.request(b"garbage", 5)
            assert isinstance(messages.decode_reply(header), Rejected)

    run(scenario())


def test_a_crossed_book_recovers_while_everything_else_flows() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(snapshot(), snapshot(ETH), update(("buy", "101.0", "1")))
            here.ingestor.push(update(("buy", "99.7", "1"), product=ETH), match(1))
            await eventually(lambda: here.ingestor.resyncs == [BTC])
            await eventually(lambda: here.listener.statuses(BTC, Channel.BOOK))
            assert here.listener.statuses(BTC, Channel.BOOK)[0]["state"] == "recovering"
            assert here.listener.bodies(ETH, Channel.BOOK)[-1]["type"] == "book"
            assert here.listener.trade_ids() == [1]
            here.ingestor.push(snapshot())
            await eventually(lambda: here.listener.bodies(BTC, Channel.BOOK)[-1]["reason"] == "resync")
            assert here.service.statistics().books_lost_total == {"the book was crossed": 1}
            assert here.events().count("books lost") == 1

    run(scenario())


def test_a_frame_that_may_be_any_books_has_the_books_asked_anew_without_stopping_them() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            await here.join()
            here.ingestor.push(snapshot(), snapshot(ETH), b'{"type":"l2upd', update(("buy", "99.6", "1")))
            await eventually(lambda: sorted(here.ingestor.resyncs) == [BTC, ETH])
            assert here.listener.bodies(BTC, Channel.BOOK)[-1]["type"] == "book"
            assert here.listener.statuses(BTC, Channel.BOOK) == []

    run(scenario())


def test_silence_of_venue_and_ingestor_is_told_and_repeated() -> None:
    async def scenario() -> None:
        async with mesh(config(stale_after_s=0.5)) as here:
            await here.join()
            here.ingestor.push(match(1), link(RecordKind.LINK_DOWN, ETH))
            await eventually(lambda: here.listener.statuses(ETH, Channel.TICKER))
            assert here.listener.statuses(ETH, Channel.TICKER)[0]["reason"] == "the venue connection is lost"
            assert here.listener.statuses(BTC, Channel.TICKER) == []

            def told() -> list[dict[str, object]]:
                return here.listener.statuses(BTC, Channel.TRADES)

            await eventually(lambda: told() and told()[-1]["state"] == "stale")
            assert any("the venue says nothing" in reason for reason in here.service.readiness())
            await eventually(lambda: len(told()) > 2)
            assert told()[2] == told()[1] == told()[0], "repeats are the same message"

            here.ingestor.fall_silent()
            await eventually(lambda: told()[-1]["reason"] == SILENT_INGESTOR)
            assert told()[-1]["state"] == "recovering"
            assert "no ingestor attached" in here.service.readiness()

            here.ingestor.push(heartbeat(3))
            await eventually(lambda: told()[-1]["state"] == "live")
            assert "ingestor heard again" in here.events()

    run(scenario())


# Start ----------------------------------------------------------------------------------------------------------------

OLD = 10**16
"""Term and epochs of a process whose clock was far ahead."""


def summaries() -> list[StreamSummary]:
    trade = Trade(BTC, 7, "100.10", "0.50000000", "buy", 0)
    fields = encode.ticker_fields(encode.trade_fields(trade), "null", "null").encode()
    trades = [BackfilledTrade(number, "100.10", "0.50000000", "buy", 5) for number in (6, 7)]
    return [
        StreamSummary(BTC, Channel.TRADES, OLD, OLD, 40, NO_INPUT, trades=trades),
        StreamSummary(BTC, Channel.TICKER, OLD, OLD, 50, NO_INPUT, fields=fields),
        StreamSummary(BTC, Channel.BOOK, OLD, OLD, 60, NO_INPUT),
    ]


@pytest.mark.parametrize(("next_id", "missing"), [(8, None), (11, {"from_trade_id": 8, "to_trade_id": 10})])
def test_a_restart_goes_on_where_the_snapshotter_stood(next_id: int, missing: dict[str, int] | None) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            snapshotter = Snapshotter(transport, summaries())
            options = config(restore_timeout_s=20.0, backfill_timeout_s=0.2)
            async with mesh(options, [snapshotter.service]) as here:
                await here.join()
                here.ingestor.push(match(7), snapshot(), match(next_id))
                await eventually(lambda: here.listener.trade_ids() == [next_id])
                frames = here.listener.of(BTC, Channel.TRADES)
                first = next(one.header for one in frames if not one.header.flags & Flags.STATUS)
                assert first.term == OLD + 1
                bodies = here.listener.bodies(BTC, Channel.TRADES)
                if missing is None:
                    assert (first.epoch, first.first_seq) == (OLD, 41), "what it continues is proven by the trade's id"
                    assert [body["continuity"] for body in bodies] == ["verified"]
                else:
                    assert (first.epoch, first.prev_epoch, first.prev_seq) == (OLD + 1, OLD, 40)
                    assert bodies[0]["missing"] == missing
                    assert [trade["trade_id"] for trade in bodies[0]["state"]["trades"]] == [6, 7]
                tick = here.listener.bodies(BTC, Channel.TICKER)[0]
                assert tick["state"]["last_trade"]["trade_id"] == 7
                assert here.listener.of(BTC, Channel.BOOK)[0].header.epoch == OLD + 1

    run(scenario())


def test_frames_wait_while_the_history_is_asked_for() -> None:
    async def scenario() -> None:
        with Transport() as transport:
            async with mesh(config(restore_timeout_s=20.0)) as here:
                assert here.service.readiness() == ["looking for who publishes, and where the streams stood"]
                await here.ingestor.connect(here.service.endpoints()["raw"])
                here.ingestor.push(match(8))
                await eventually(lambda: here.service.figures().queue_messages >= 2)
                assert here.listener.order == []
                snapshotter = Snapshotter(transport, summaries())
                here.service.on_peers([here.ingestor.service, snapshotter.service])
                await eventually(lambda: here.listener.trade_ids() == [8])
                assert here.listener.bodies(BTC, Channel.TRADES)[0]["continuity"] == "verified"
                assert here.service.figures().queue_messages == 0

    run(scenario())


@pytest.mark.parametrize("known", [True, False])
def test_a_silent_or_absent_snapshotter_is_not_waited_for(known: bool) -> None:
    async def scenario() -> None:
        with Transport() as transport:
            peers: list[ServiceRecord] = [Snapshotter(transport, None).service] if known else []
            async with mesh(config(restore_timeout_s=0.3), peers) as here:
                await here.join()
                here.ingestor.push(match(1))
                await eventually(lambda: here.listener.trade_ids() == [1])
            event = "starting without the streams' history" if known else "no snapshotter known; starting without"
            assert event in here.events()

    run(scenario())


def test_an_answer_that_cannot_be_read_is_not_fatal() -> None:
    async def scenario() -> None:
        with Transport() as transport:
            server = Server(transport, "tcp://127.0.0.1:0", lambda _, responder: responder.reply(b"garbage"))
            peer = ServiceRecord(Role.SNAPSHOTTER, "s", 1, {"requests": server.endpoint}, "0", 1, "here", 0)
            async with mesh(config(restore_timeout_s=20.0), [peer]) as here:
                await here.join()
                assert "starting without the streams' history" in here.events()

    run(scenario())


def test_a_port_in_use_is_said_clearly() -> None:
    async def scenario() -> None:
        async with mesh() as here:
            with pytest.raises(PortInUse, match="in use"):
                async with mesh(config(bind_raw=here.service.endpoints()["raw"])):
                    pass

    run(scenario())


def test_it_ends_while_starting_and_after() -> None:
    async def scenario() -> None:
        async with mesh(config(restore_timeout_s=20.0)) as here:
            await here.service.stop()
            await here.service.stop()
        async with mesh() as here:
            await here.join()
            here.ingestor.push(match(1))
            await eventually(lambda: here.listener.trade_ids() == [1])
            count = len(here.listener.beacons)
            await here.service.stop()
            await eventually(lambda: len(here.listener.beacons) > count)
            assert here.listener.beacons[-1].full

    run(scenario())


def test_an_ingestor_that_moves_is_asked_at_its_new_address() -> None:
    async def scenario(here: Mesh) -> None:
        await here.join()
        here.ingestor.push(match(1))
        await eventually(lambda: here.listener.trade_ids() == [1])
        answered: list[bytes] = []
        moved = Server(here.transport, "tcp://127.0.0.1:0", lambda payload, _: answered.append(payload))
        record = here.ingestor.service
        here.service.on_peers(
            [ServiceRecord(record.role, record.instance, record.incarnation, {"requests": moved.endpoint}, "0", 1, "x")]
        )
        here.ingestor.push(match(2), lose=True)
        here.ingestor.push(match(3))
        await eventually(lambda: answered)
        assert isinstance(messages.decode_request(answered[0]), ReplayRequest)
        here.service.on_peers([record])
        await eventually(lambda: here.listener.trade_ids() == [1, 2, 3])

    async def main() -> None:
        async with mesh() as here:
            await scenario(here)

    run(main())
