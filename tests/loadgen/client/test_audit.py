"""Auditing clients against a real gateway: what they saw is what was published, over drops and restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lfmesh.types import Channel
from loadgen.client.audit import AuditConfig, AuditKind, Auditor
from loadgen.client.violations import Kind
from tests.aio import eventually, run
from tests.client.server import EPOCH, Caller, P, gateway, subscribed, trade_incr, trades_snapshot
from tests.services.gateway.kit import TICKER, TRADES, World, world
from tests.services.gateway.test_joins import flowing

CHANNELS = (Channel.TICKER, Channel.TRADES)


@asynccontextmanager
async def published_to() -> AsyncIterator[World]:
    async with world() as here:
        await flowing(here, TICKER, 1)
        await flowing(here, TRADES, 1)
        yield here


async def publish(here: World, until: "asyncio.Event | None" = None, count: int = 0) -> None:
    number = 0
    while number < count or (until is not None and not until.is_set()):
        number += 1
        here.normalizer.publish(TRADES, [number])
        here.normalizer.publish(TICKER, [number])
        await asyncio.sleep(0.001)


def config(here: World, kind: AuditKind) -> AuditConfig:
    return AuditConfig(urls=(here.ws_url,), kind=kind, products=(P,), channels=CHANNELS, every_s=0.1, seed=7)


@pytest.mark.parametrize("kind", AuditKind)
def test_every_client_sees_each_trade_once_in_order_and_ends_whole(kind: AuditKind) -> None:
    async def scenario() -> None:
        async with published_to() as here:
            async with Auditor(config(here, kind)) as auditor:
                await auditor.until_whole(10)
                enough = asyncio.Event()
                publishing = asyncio.create_task(publish(here, enough))
                if kind is AuditKind.STEADY:
                    await eventually(lambda: auditor.counts().increments > 300)
                else:
                    await eventually(lambda: auditor.counts().connections > 5)
                enough.set()
                await publishing
                await auditor.calm()
                newest = here.normalizer.model.trade_id
                await eventually(lambda: auditor.last_trade_id(P) == newest)
                await auditor.until_whole(10)
                ticker = auditor.ticker(P)
                pauses = auditor.take_pauses()
            history = auditor.history()
            assert history.problems() == []
            assert (history.counts.undeclared, history.counts.repeated, history.counts.missing) == (0, 0, 0)
            for life in history.lives:
                seen = [trade.trade_id for trade in life.trades[P]]
                assert seen == list(range(seen[0], seen[-1] + 1))
            assert history.final.trades[P][-1].trade_id == newest
            assert history.final.tickers[P] == ticker
            assert history.final.positions[TRADES] == here.normalizer.model.streams[TRADES].position
            assert set(pauses) == {TICKER, TRADES}
            assert all(pause.ns > 0 for pause in pauses.values())
            snapshots = history.counts.snapshots
            if kind is AuditKind.RESTARTING:
                assert len(history.lives) == history.counts.connections > 5
                assert history.counts.resumes == 0
            else:
                assert len(history.lives) == 1
                assert snapshots == {"subscribe": 2}
            if kind is AuditKind.RESUMING:
                assert history.counts.resumed == history.counts.resumes == 2 * (history.counts.connections - 1)
                assert {reason for _, reason in history.disconnections} == {"the client's own doing"}
                assert history.final.trades[P][0].trade_id == 1

    run(scenario(), 60)


def test_a_gateway_that_loses_a_trade_over_a_resume_is_found_out() -> None:
    async def first(caller: Caller) -> None:
        await caller.accept(*trades_snapshot(1, [1]), trade_incr(2, 2))
        caller.cut()

    async def second(caller: Caller) -> None:
        request = await caller.request()
        assert request["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 2}}}
        await caller.send(subscribed(request), trade_incr(4, 4))
        await caller.accept(trade_incr(3, 4), trade_incr(4, 5))
        await caller.stay()

    async def scenario() -> None:
        async with gateway(first, second) as url:
            audit = AuditConfig(urls=(url,), products=(P,), channels=(Channel.TRADES,))
            async with Auditor(audit) as auditor:
                await eventually(lambda: auditor.counts().undeclared >= 2)
                assert auditor.unwhole() != []
            history = auditor.history()
            assert history.problems() != []
            assert history.final.counts[Kind.START] >= 1
            assert history.final.counts[Kind.TRADE_GAP] >= 1

    run(scenario())


def test_what_is_not_whole_is_named() -> None:
    async def silent(caller: Caller) -> None:
        await caller.accept()
        await caller.stay()

    async def scenario() -> None:
        async with gateway(silent) as url:
            audit = AuditConfig(urls=(url,), products=(P,), channels=(Channel.BOOK,), name="one")
            async with Auditor(audit) as auditor:
                with pytest.raises(TimeoutError, match="one: BTC-USD book is waiting"):
                    await auditor.until_whole(0.1)
                assert auditor.book(P) is None

    run(scenario())
