"""The client protocol under trouble, in this process: losses, resumes, a registry that is gone."""

import asyncio
import json
from pathlib import Path
from typing import get_args
from urllib.parse import urlencode

from lfmesh.types import Role
from loadgen import tape
from loadgen.client.checker import Checker
from loadgen.client.session import Session
from loadgen.client.wire import ErrorCode
from loadgen.sim import Fault, SimConfig, VenueChannel
from tests.aio import run
from tests.integration.clients import (
    CHANNELS,
    Recorder,
    assert_clean,
    assert_holds_truth,
    client,
    products_of,
    quiet,
    started,
)
from tests.integration.mesh import LiveMesh, assembled

SIM = SimConfig(product_count=6, rate_msgs_s=1500, seed=3)


async def _more(session: Session, checker: Checker, count: int) -> None:
    seen = checker.increments
    await session.until(lambda: checker.increments >= seen + count, 30)


async def _settle(mesh: LiveMesh, session: Session, checker: Checker) -> None:
    """Stop the exchange, wait until everything has come, and compare."""
    assert mesh.simulator is not None
    mesh.simulator.pause()
    await quiet([(session, checker)])
    assert_clean([checker])
    assert_holds_truth(checker, await mesh.truth())


def test_subscribing_again_while_data_flows_gives_the_same_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with assembled(tmp_path, SIM) as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                for _ in range(5):
                    await _more(session, checker, 200)
                    await session.subscribe(await products_of(mesh), CHANNELS)
                    await started(session, checker)
                await session.unsubscribe(channels=["book"])
                await session.until(lambda: not checker.unanswered, 10)
                await _more(session, checker, 50)
                await session.subscribe(await products_of(mesh), ["book"])
                await _settle(mesh, session, checker)

    run(scenario(), 60)


def _deep_tape(path: Path, frames: int) -> dict[str, str]:
    """A tape of one product with a book of 20,000 levels, all changed in turn; its asks at the end, by price."""
    product = "DEEP-USD"
    bids = {f"{1000 - level / 1000:.8f}": f"{level}.12345678" for level in range(1, 10_001)}
    asks = {f"{1000 + level / 1000:.8f}": f"{level}.12345678" for level in range(1, 10_001)}
    with tape.Writer(path) as writer:
        snapshot = {"type": "snapshot", "product_id": product, "bids": list(bids.items()), "asks": list(asks.items())}
        writer.write(0, json.dumps(snapshot).encode())
        prices = list(asks)
        for number in range(frames):
            px, qty = prices[number * 7919 % len(prices)], "0.00000000" if number % 3 else f"{number}.50000000"
            asks[px] = qty
            update = {"type": "l2update", "product_id": product, "time": "2026-01-01T00:00:00.000000Z"}
            writer.write(number * 1_000_000, json.dumps({**update, "changes": [["sell", px, qty]]}).encode())
    return {px: qty for px, qty in asks.items() if float(qty)}


def test_a_book_in_parts_joins_while_data_flows(tmp_path: Path) -> None:
    path = tmp_path / "deep.tape"
    expected = _deep_tape(path, 3000)

    async def scenario() -> None:
        async with assembled(tmp_path, SimConfig(tape=path, tape_start="control")) as mesh:
            assert mesh.simulator is not None
            checker = Recorder()
            async with client(mesh, checker, channels=["book"]) as session:
                mesh.simulator.start()
                await started(session, checker)
                ended = asyncio.ensure_future(mesh.simulator.wait_finished())
                for _ in range(5):
                    seen = checker.increments
                    await session.until(lambda seen=seen: ended.done() or checker.increments > seen + 300, 30)  # type: ignore[misc]
                    await session.subscribe(["DEEP-USD"], ["book"])
                    await started(session, checker)
                await ended
                await quiet([(session, checker)])
            assert_clean([checker])
            assert sum(b'"part":3,' in frame for frame in checker.frames) >= 6
            book = checker.book("DEEP-USD")
            assert book is not None
            assert book.asks() == list(expected.items())

    run(scenario(), 60)


def test_a_client_that_comes_back_goes_on_where_it_stood(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with assembled(tmp_path, SIM) as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                await _more(session, checker, 200)
            snapshots = checker.snapshots
            # Data flows on while nobody listens.
            other = Checker()
            async with client(mesh, other) as session:
                await started(session, other)
                await _more(session, other, 400)
            async with Session(mesh.ws_url, checker) as session:
                await session.subscribe(await products_of(mesh), CHANNELS, from_seq=checker.resume_positions())
                await _more(session, checker, 600)
                await _settle(mesh, session, checker)
            assert checker.snapshots == snapshots, "resumed without a snapshot"

    run(scenario(), 60)


def test_lost_trades_are_fetched_and_duplicates_vanish(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with assembled(tmp_path, SIM) as mesh:
            assert mesh.simulator is not None
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                mesh.simulator.begin_fault(Fault(kind="lose", share=0.1, channels=frozenset({VenueChannel.MATCHES})))
                mesh.simulator.begin_fault(
                    Fault(kind="duplicate", share=0.2, channels=frozenset({VenueChannel.MATCHES}))
                )
                await session.until(lambda: _backfilled(checker) >= 3, 30)
                mesh.simulator.clear_faults()
                await _more(session, checker, 300)
                await _settle(mesh, session, checker)
            assert not checker.declared_gaps(), "the exchange had them all"

    run(scenario(), 60)


def _backfilled(checker: Checker) -> int:
    return sum(stream.continuity["backfilled"] for _, stream in checker.streams())


def test_a_dropped_venue_connection_is_told_and_healed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with assembled(tmp_path, SIM) as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                await _more(session, checker, 300)
                await mesh.sim("control/fault?" + urlencode({"kind": "drop"}))
                await session.until(lambda: {"recovering", "live"} <= {status.state for status in checker.statuses}, 30)
                await _more(session, checker, 500)
                await _settle(mesh, session, checker)

    run(scenario(), 60)


def test_a_silent_product_is_told_stale_and_the_others_flow_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        soon = {"normalizer": {"stale_after_s": 1.5}}
        async with assembled(tmp_path, SIM, changes=soon) as mesh:
            assert mesh.simulator is not None
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                silent = mesh.simulator.products[0]
                mesh.simulator.begin_fault(Fault(kind="stall", products=frozenset({silent})))
                await session.until(lambda: len(_told(checker, "stale")) == len(CHANNELS), 30)
                assert {product for product, _ in _told(checker, "stale")} == {silent}
                await _more(session, checker, 300)
                mesh.simulator.clear_faults()
                await session.until(lambda: all(stream.status in ("", "live") for _, stream in checker.streams()), 30)
                await _settle(mesh, session, checker)
                await session.until(lambda: checker.ops["heartbeat"], 10)

    run(scenario(), 60)


def _told(checker: Checker, state: str) -> set[tuple[str, str]]:
    return {(status.product, status.channel) for status in checker.statuses if status.state == state}


def test_a_rude_client_gets_its_answers_and_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        bound = {"gateway": {"max_subscriptions_per_client": 2 * len(SIM.listed_products)}}
        async with assembled(tmp_path, SIM, changes=bound) as mesh:
            good, rude = Checker(), Checker()
            async with client(mesh, good, channels=["book", "trades"]) as session, Session(mesh.ws_url, rude) as other:
                await started(session, good)
                product = SIM.listed_products[0]
                await other.send_text("not json")
                await other.send_text('{"op":"subscribe"}')
                await other.send_text('{"op":"dance"}')
                await other.subscribe(["NO-SUCH", product], ["ticker"])
                await other.send_text(f'{{"op":"subscribe","products":["{product}"],"channels":["depth"]}}')
                await other.subscribe(SIM.listed_products, CHANNELS)
                await other.until(lambda: len(rude.error_codes) == 6, 10)
                assert rude.error_codes == dict.fromkeys(get_args(ErrorCode), 1)
                await other.until(lambda: rude.position(product, "ticker"), 10)
                for t in range(400):
                    await other.ping(t)
                await other.until(
                    lambda: rude.ops["rate_limit"] and rude.ops["rate_limit"] + rude.ops["pong"] == 400, 10
                )
                await other.send_text("x" * (64 * 1024 + 1))
                assert (await other.wait_closed()).startswith("1009")
                await _more(session, good, 100)
            assert not rude.violations, rude.violations.first
            assert_clean([good])

    run(scenario(), 60)


def test_data_flows_on_without_any_registry(tmp_path: Path) -> None:
    async def scenario() -> None:
        short = {"registry": {"lease_ttl_s": 0.6, "announce_interval_s": 0.1}}
        async with assembled(tmp_path, SIM, changes=short) as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                told = len(checker.statuses)
                await mesh.roles[Role.REGISTRY].stop()
                # More than a lease of the simulator's time goes by with these.
                await _more(session, checker, 1200)
                late = Checker()
                async with client(mesh, late) as second:
                    await started(second, late)
                assert_clean([late])
                assert len(checker.statuses) == told
                await _settle(mesh, session, checker)

    run(scenario(), 60)
