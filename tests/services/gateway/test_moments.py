"""`/v1/snapshot/PRODUCT?at=…`: the state as of a moment, from a snapshotter's archive."""

import asyncio

import pytest

from lfmesh.messages import SnapshotRequest
from lfmesh.models import parse_message, to_json
from lfmesh.services.gateway.moments import MAX_UNDER_WAY
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, configured, world
from tests.services.gateway.test_http import get
from tests.services.gateway.test_joins import flowing

NS = 1_618_677_830_123_456_789
ISO = "2021-04-17T16:43:50.123456789Z"


@pytest.mark.parametrize(
    "at",
    [str(NS), ISO, "2021-04-17T18:43:50.123456789%2B02:00", "2021-04-17T18:43:50.123456789+02:00"],
    ids=["ns", "Z", "offset", "a plus that the query has turned into a space"],
)
def test_the_moment_is_given_as_ns_or_iso_8601(at: str) -> None:
    async def scenario() -> None:
        async with world() as here:
            here.snapshotter.archive = "answers"
            await flowing(here, TICKER, 8)
            reply = await get(here, f"/v1/snapshot/BTC-USD?at={at}")
            assert reply.status == 200
            whole = b'{"op":"snapshot","data":' + reply.body + b"}"
            assert to_json(parse_message(whole)) == whole
            assert (reply.json()["ts_snapshot"], reply.json()["reason"]) == (NS, "subscribe")
            assert here.snapshotter.archived == [SnapshotRequest(*TICKER, at=NS)]
            assert here.snapshotter.asked == [], "not the state of now"
            assert here.gateway.statistics().moments_total == {"served": 1}

    run(scenario())


def test_a_book_in_parts_is_one() -> None:
    async def scenario() -> None:
        async with world() as here:
            here.snapshotter.archive = "answers"
            here.snapshotter.part_bytes = 200
            await flowing(here, BOOK, 60)
            then = (await get(here, f"/v1/snapshot/BTC-USD?channel=book&at={NS}")).json()
            now = (await get(here, "/v1/snapshot/BTC-USD?channel=book")).json()
            assert then["state"] == now["state"]
            assert len(then["state"]["bids"]) > 10
            assert "parts" not in then

    run(scenario())


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("at=yesterday", 400, "at: 'yesterday' is no moment"),
        ("at=2021-04-17T16:43:50", 400, "names no zone"),
        ("at=", 400, "at: "),
        ("at=0", 400, "out of range"),
        ("at=-5", 400, "at: "),
        ("at=99999999999999999999", 400, "at: "),
        (f"at={NS}&channel=candles", 400, "candles"),
        (f"at={NS}&until=5", 400, "known: channel, at"),
        (f"at={NS}&at={NS}", 400, "twice"),
        (f"at={NS}", 404, "nothing is known of that"),
    ],
)
def test_what_makes_no_sense_or_is_not_known_is_said_in_clear_words(query: str, status: int, words: str) -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            reply = await get(here, f"/v1/snapshot/BTC-USD?{query}")
            assert reply.status == status
            assert words in reply.body.decode()

    run(scenario())


def test_the_other_of_a_pair_is_asked_where_one_knows_nothing_or_is_busy() -> None:
    async def scenario() -> None:
        async with world(pair=True) as here:
            one, other = here.snapshotters
            await flowing(here, TICKER)
            one.archive, other.archive = "knows nothing", "answers"
            for _ in range(2):  # whoever's turn it is
                assert (await get(here, f"/v1/snapshot/BTC-USD?at={NS}")).status == 200
            assert one.archived
            one.archive, other.archive = "knows nothing", "is busy"
            reply = await get(here, f"/v1/snapshot/BTC-USD?at={NS}")
            assert reply.status == 503, "it may be known, by who has no time"
            assert "Retry-After: 1" in reply.headers
            assert "busy" in reply.json()["error"]["msg"]
            other.archive = "knows nothing"
            assert (await get(here, f"/v1/snapshot/BTC-USD?at={NS}")).status == 404
            assert here.gateway.statistics().moments_total == {"served": 2, "busy": 1, "unknown": 1}

    run(scenario())


@pytest.mark.parametrize(
    ("enabled", "snapshotters", "words"), [(False, True, "archive.enabled"), (True, False, "no snapshotter")]
)
def test_where_nobody_can_answer_it_is_said_why(enabled: bool, snapshotters: bool, words: str) -> None:
    async def scenario() -> None:
        config = configured().override({"archive": {"enabled": enabled}})
        async with world(config, snapshotters=snapshotters) as here:
            await flowing(here, TICKER)
            reply = await get(here, f"/v1/snapshot/BTC-USD?at={NS}")
            assert reply.status == 503
            assert words in reply.json()["error"]["msg"]

    run(scenario())


def test_so_many_are_looked_for_at_a_time_and_others_are_turned_away_at_once() -> None:
    async def scenario() -> None:
        async with world() as here:
            await flowing(here, TICKER)
            here.snapshotter.archive = "takes its time"
            asking = [
                asyncio.ensure_future(get(here, f"/v1/snapshot/BTC-USD?at={NS + n}")) for n in range(MAX_UNDER_WAY)
            ]
            await eventually(lambda: len(here.snapshotter.archived) == MAX_UNDER_WAY)
            reply = await get(here, f"/v1/snapshot/BTC-USD?at={NS}")
            assert (reply.status, "Retry-After: 1" in reply.headers) == (503, True)
            assert (await get(here, "/v1/snapshot/BTC-USD")).status == 200, "the state of now does not wait for them"
            here.snapshotter.answer_archived()
            assert [(await one).json()["ts_snapshot"] for one in asking] == [NS + n for n in range(MAX_UNDER_WAY)]

    run(scenario())


def test_who_waits_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        async with world() as here:
            here.snapshotter.archive = "takes its time"
            asking = asyncio.ensure_future(get(here, f"/v1/snapshot/BTC-USD?at={NS}"))
            await eventually(lambda: here.snapshotter.archived)
            async with asyncio.timeout(5):
                await here.gateway.stop()
                await asyncio.wait([asking])
            asking.exception()
            assert here.gateway.statistics().moments_total == {"unavailable": 1}

    run(scenario())


def test_the_page_tells_of_it() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here:
            assert "&amp;at=2021-04-17T16:43:50Z" in (await get(here, "/")).body.decode()

    run(scenario())
