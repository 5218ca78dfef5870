"""Two normalizers of a shard, with real sockets, at load: no trade lost, none twice, books right."""

import asyncio
import time
from pathlib import Path

from lfmesh import messages
from lfmesh.messages import RetransmitRequest, ServiceRecord, Unavailable
from lfmesh.services.normalizer.standby import others
from lfmesh.transport import Requester
from lfmesh.types import NO_INPUT, Channel, Role, StreamKey
from tests.aio import eventually, run
from tests.services.normalizer.shard import PRODUCTS, Shard, shard

FIRST, SECOND = "normalizer-0", "normalizer-0-b"


async def pair(here: Shard) -> None:
    """A publishes, B follows, a snapshotter too; the exchange has opened."""
    await here.add_snapshotter()
    await here.add(FIRST)
    await eventually(lambda: here.normalizers[FIRST].active)
    await here.opened()
    second = await here.add(SECOND)
    await eventually(lambda: second.readiness() == [])
    assert not second.active


async def believed(here: Shard, name: str) -> None:
    """The standby has followed for long enough to know how far all streams are."""
    service = here.normalizers[name]
    await eventually(lambda: service._standby is not None and service._standby.replica.believes)


def test_a_standby_takes_over_in_the_same_epochs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            await here.run(1.0)
            await believed(here, SECOND)
            epochs = here.consumer.all_epochs()
            talking = asyncio.ensure_future(here.run(3.0))
            await asyncio.sleep(0.3)
            before = here.consumer.feed.term
            here.kill(FIRST)
            await eventually(lambda: here.normalizers[SECOND].active)
            await talking
            await here.quiet()
            here.check()
            await here.snapshotters_agree()
            assert here.consumer.feed.term > before
            assert here.consumer.breaks == []
            assert epochs == here.consumer.all_epochs(), "what goes on is proven: nobody is given a new snapshot"
            statistics = here.normalizers[SECOND].statistics()
            assert (statistics.active, statistics.takeovers_total, statistics.stepdowns_total) == (1, 1, 0)
            assert statistics.followed_messages_total > 500
            events = here.events(SECOND)
            assert events.index("standing by") < events.index("taking over: its beacons are missing")

    run(scenario(), timeout=60)


def test_a_standby_gives_again_what_it_has_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            await here.run(0.5)
            await here.quiet()
            second = here.normalizers[SECOND]
            key = StreamKey(PRODUCTS[0], Channel.TRADES)
            position = here.consumer.feed.position(key)
            assert position is not None
            request = messages.encode(RetransmitRequest(*key, position.epoch, position.seq - 10))
            requester = Requester(here.transport, second.endpoints()["requests"])
            (refused,) = await requester.request(request, 5)
            assert messages.decode_reply(refused) == Unavailable("standby")
            here.kill(FIRST)
            await eventually(lambda: second.active)
            _, *frames = await requester.request(request, 5)
            assert frames
            requester.close()
            before = len(here.consumer.trade_ids(PRODUCTS[0]))
            here.ingestor.say(200)
            await here.quiet()
            here.check()
            assert len(here.consumer.trade_ids(PRODUCTS[0])) > before

    run(scenario(), timeout=60)


def test_who_comes_back_stands_by(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            here.kill(FIRST)
            await eventually(lambda: here.normalizers[SECOND].active)
            first = await here.add(FIRST)
            await eventually(lambda: first.readiness() == [])
            assert (first.active, here.normalizers[SECOND].active) == (False, True)
            assert here.normalizers[SECOND].statistics().stepdowns_total == 0
            await here.run(0.5)
            await here.quiet()
            here.check()
            # And takes over again in its turn.
            here.kill(SECOND)
            await eventually(lambda: first.active)
            await here.run(0.5)
            await here.quiet()
            here.check()
            await here.snapshotters_agree()

    run(scenario(), timeout=60)


def test_of_two_in_a_partition_the_higher_term_wins_when_it_heals(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            await here.run(0.5)
            first, second = here.normalizers[FIRST], here.normalizers[SECOND]
            for name in (FIRST, SECOND):
                here.deafen(name)
            await here.run(1.5)
            await eventually(lambda: second.active)
            assert first.active, "neither knows of the other"
            await here.run(1.0)
            assert first.active
            await here.quiet()
            here.check()
            for name in (FIRST, SECOND):
                here.cure(name)
            await eventually(lambda: not first.active)
            assert second.active
            await eventually(lambda: first.readiness() == [])
            await here.run(0.5)
            await here.quiet()
            here.check()
            await here.snapshotters_agree()
            assert first.statistics().stepdowns_total == 1
            assert second.statistics().stepdowns_total == 0
            assert any("stepping down" in event for event in here.events(FIRST))
            assert here.consumer.terms == sorted(here.consumer.terms)
            assert here.consumer.breaks == []

    run(scenario(), timeout=60)


def test_a_stale_active_one_harms_nobody_and_steps_down(tmp_path: Path) -> None:
    """Its own ear is not cut: it is as a process that was paused and wakes up, and hears that another one speaks."""

    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            first, second = here.normalizers[FIRST], here.normalizers[SECOND]
            here.deafen(SECOND)
            await here.run(2.0)
            await eventually(lambda: second.active and not first.active)
            here.cure(SECOND)
            await here.run(1.0)
            await here.quiet()
            here.check()
            await here.snapshotters_agree()
            assert (first.active, second.active) == (False, True)
            assert here.consumer.breaks == []

    run(scenario(), timeout=60)


def test_two_that_start_together_agree_on_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.5) as here:
            await asyncio.gather(here.add(FIRST), here.add(SECOND))
            await eventually(lambda: all(one.statistics().term for one in here.normalizers.values()))
            await here.active()
            await here.opened()
            await here.run(0.5)
            await here.quiet()
            here.check()
            await here.active()

    run(scenario(), timeout=60)


def test_an_orderly_end_is_a_take_over_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            await here.run(1.2)
            await believed(here, SECOND)
            first = here.normalizers.pop(FIRST)
            await first.stop()
            here.ingestor.pushers.pop(FIRST).close()
            here.tell()
            await here.run(0.5)
            await eventually(lambda: here.normalizers[SECOND].active)
            assert "taking over: it ends" in here.events(SECOND), "its silence need not be waited for"
            await here.quiet()
            here.check()
            assert here.consumer.breaks == []

    run(scenario(), timeout=60)


def test_its_own_lateness_is_no_proof_of_anothers_silence(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            for _ in range(3):
                time.sleep(1.0)  # noqa: ASYNC251 - the loop of both is to stand still, as without processor time
                await here.run(0.15)
            assert await here.active() == FIRST
            assert here.normalizers[SECOND].statistics().takeovers_total == 0
            await here.quiet()
            here.check()

    run(scenario(), timeout=60)


def test_streams_that_were_not_followed_yet_are_had_from_the_snapshotter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shard(tmp_path, restore_timeout_s=0.3) as here:
            await pair(here)
            await here.run(1.2)
            await here.quiet()
            second = here.normalizers[SECOND]
            await believed(here, SECOND)
            await here.snapshotters_agree()
            standby = second._standby
            assert standby is not None
            key = StreamKey(PRODUCTS[0], Channel.TRADES)
            here.kill(FIRST)
            standby.replica.discard(key, "to be taken anew")
            standby.replica.feed.beacon(
                messages.Beacon(
                    0, standby.replica.feed.term, standby.replica.feed.publisher, NO_INPUT, 0, full=False,
                    positions=[messages.StreamPosition(*key, 1, 1)],
                ),
                time.time_ns(),
            )  # fmt: skip
            assert standby.replica.feed.waiting == 1
            await eventually(lambda: second.active)
            await here.run(0.5)
            await here.quiet()
            here.check()
            assert here.consumer.breaks == []
            assert len(here.consumer.epochs(*key)) == 1

    run(scenario(), timeout=60)


def test_a_newer_process_of_the_same_name_is_another_one() -> None:
    def record(instance: str, incarnation: int, shard: int = 0, role: Role = Role.NORMALIZER) -> ServiceRecord:
        return ServiceRecord(role, instance, incarnation, {}, "0", 1, "here", shard)

    rivals = [record(SECOND, 1), record(FIRST, 8)]
    peers = [*rivals, record(FIRST, 7), record(FIRST, 6), record("x", 9, shard=1), record("y", 9, role=Role.GATEWAY)]
    assert others(peers, 0, FIRST, 7) == rivals
