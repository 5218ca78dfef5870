"""`conflate_ms` on a whole mesh: whoever wants less gets less, and everybody ends with the exchange's truth."""

from contextlib import AsyncExitStack
from pathlib import Path

from lfmesh.types import Channel
from loadgen.client.audit import AuditConfig, AuditKind, Auditor
from loadgen.client.checker import Checker
from loadgen.client.session import Session
from loadgen.sim import SimConfig
from tests.aio import run
from tests.integration.clients import (
    CHANNELS,
    Recorder,
    assert_clean,
    assert_holds_truth,
    products_of,
    quiet,
    started,
)
from tests.integration.mesh import LiveMesh, assembled

SIM = SimConfig(product_count=3, rate_msgs_s=3000, batch_interval_ms=5, seed=5)
INTERVALS_MS = (0, 50, 200)


async def _client(stack: AsyncExitStack, mesh: LiveMesh, conflate_ms: int) -> tuple[Session, Recorder]:
    checker = Recorder()
    session = await stack.enter_async_context(Session(mesh.ws_url, checker))
    await session.subscribe(await products_of(mesh), CHANNELS, conflate_ms=conflate_ms)
    await started(session, checker)
    return session, checker


async def _more(session: Session, checker: Checker, count: int) -> None:
    seen = checker.increments
    await session.until(lambda: checker.increments >= seen + count, 30)


def test_clients_with_different_intervals_end_with_the_same_truth(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with assembled(tmp_path, SIM) as mesh, AsyncExitStack() as stack:
            assert mesh.simulator is not None
            clients = [await _client(stack, mesh, conflate_ms) for conflate_ms in INTERVALS_MS]
            plain, plain_checker = clients[0]
            await _more(plain, plain_checker, 1000)
            # Who joins a stream that others have conflated already gets the same messages as they do.
            clients.append(await _client(stack, mesh, 200))
            await _more(plain, plain_checker, 2000)
            mesh.simulator.pause()
            await quiet(clients)
            checkers = [checker for _, checker in clients]
            assert_clean(checkers)
            truth = await mesh.truth()
            for checker in checkers:
                assert_holds_truth(checker, truth)
                _assert_trades_are_complete(checker, plain_checker)
            for checker, conflate_ms in zip(checkers[1:], (*INTERVALS_MS[1:], 200), strict=True):
                _assert_paced(checker, conflate_ms, plain_checker)
                checker.assert_models_accept()
            assert sum(stream.conflated for _, stream in plain_checker.streams()) == 0
            first, late = (checker.increments_by_position() for checker in (checkers[2], checkers[3]))
            both = [key for key in first.keys() & late.keys() if b'"prev_seq"' in first[key]]
            assert sum(first[key] == late[key] for key in both) > len(both) / 2 > 5

    run(scenario(), 60)


def _assert_trades_are_complete(checker: Checker, plain: Checker) -> None:
    """From the first one that a client has, it has every trade that the others have."""
    for key, _ in checker.streams():
        mine, all_of_them = checker.trades(key.product), plain.trades(key.product)
        assert mine is not None
        assert all_of_them is not None
        held = list(mine.held)
        assert held
        assert held == list(all_of_them.held)[-len(held) :], key.product


def _assert_paced(checker: Checker, conflate_ms: int, plain: Checker) -> None:
    """At most one increment of each ticker and book an interval, one to begin with and one at the end; all trades."""
    every = dict(plain.streams())
    for key, stream in checker.streams():
        if key.channel is Channel.TRADES:
            assert stream.conflated == 0
            continue
        span_ms = (checker.last_data_at - stream.asked_at) / 1e6
        assert stream.increments <= span_ms / conflate_ms + 2, (key, conflate_ms)
        assert 0 < stream.conflated <= stream.increments <= every[key].increments, (key, conflate_ms)
        assert stream.position == every[key].position, key
    assert checker.increments < plain.increments


def test_an_interval_may_change_and_a_lost_connection_is_resumed_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with assembled(tmp_path, SIM) as mesh, AsyncExitStack() as stack:
            assert mesh.simulator is not None
            # The library's client loses its connection again and again, and resumes what it gets conflated.
            config = AuditConfig(urls=(mesh.ws_url,), kind=AuditKind.RESUMING, every_s=0.4, conflate_ms=50)
            auditor = await stack.enter_async_context(Auditor(config))
            session, checker = await _client(stack, mesh, 0)
            for conflate_ms in (200, 0, 50, 20):
                await _more(session, checker, 200)
                await session.subscribe(await products_of(mesh), ["ticker", "book"], conflate_ms=conflate_ms)
                await started(session, checker)
            await _more(session, checker, 200)
            left = Recorder()
            async with Session(mesh.ws_url, left) as other:
                await other.subscribe(await products_of(mesh), CHANNELS, conflate_ms=100)
                await started(other, left)
                await _more(other, left, 50)
            snapshots = left.snapshots
            await _more(session, checker, 200)
            again = await stack.enter_async_context(Session(mesh.ws_url, left))
            await again.subscribe(await products_of(mesh), CHANNELS, conflate_ms=100, from_seq=left.resume_positions())
            await _more(again, left, 50)
            await auditor.calm()
            mesh.simulator.pause()
            await quiet([(session, checker), (again, left)])
            assert_clean([checker, left])
            truth = await mesh.truth()
            assert_holds_truth(checker, truth)
            assert_holds_truth(left, truth)
            assert left.snapshots == snapshots, "resumed without a snapshot"
            left.assert_models_accept()
            await auditor.until_whole(20)
            history = auditor.history()
            assert history.problems() == []
            assert history.counts.connections > 1
            assert history.counts.resumed > 0
            for product, expected in truth.items():
                book = auditor.book(product)
                assert book is not None
                assert [list(level) for level in book.bids] == expected["bids"], product
                assert [list(level) for level in book.asks] == expected["asks"], product

    run(scenario(), 60)
