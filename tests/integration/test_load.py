"""The simulated exchange at 5,000 messages/s, then quiet: every client holds the exchange's truth ("Shown by" 3)."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from lfmesh.types import Position
from loadgen.client.checker import Checker
from loadgen.client.state import Book, ticker_of
from loadgen.client.wire import Snapshot, decode_book, decode_ticker
from tests.aio import run
from tests.integration.clients import (
    Recorder,
    assert_clean,
    assert_holds_truth,
    client,
    products_of,
    quiet,
    started,
)
from tests.integration.mesh import LiveMesh, mesh_up

RATE = 5000
PRODUCTS = 20


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(400)])])
def test_clients_hold_the_truth_when_the_exchange_falls_quiet(tmp_path: Path, seconds: int) -> None:
    run(_scenario(tmp_path, seconds), 100 + 4 * seconds)


async def _scenario(data_dir: Path, seconds: int) -> None:
    async with (
        mesh_up(data_dir, "--rate", str(RATE), "--products", str(PRODUCTS)) as mesh,
        AsyncExitStack() as stack,
    ):
        recorder = Recorder()
        checkers: list[Checker] = [recorder, Checker()]
        sessions = [await stack.enter_async_context(client(mesh, checker)) for checker in checkers]
        for session, checker in zip(sessions, checkers, strict=True):
            await started(session, checker)
        sent_before = (await mesh.sim("control/status"))["sent"]
        # The load itself is what is waited for here: so many seconds of it.
        await asyncio.sleep(seconds / 2)
        late = Checker()
        checkers.append(late)
        sessions.append(await stack.enter_async_context(client(mesh, late)))
        await sessions[1].subscribe(await products_of(mesh), ["book", "ticker", "trades"])
        await asyncio.sleep(seconds / 2)
        sent = (await mesh.sim("control/pause"))["sent"] - sent_before
        await quiet(list(zip(sessions, checkers, strict=True)))
        for session, checker in zip(sessions, checkers, strict=True):
            await started(session, checker)
        assert_clean(checkers)
        truth = await mesh.truth()
        assert len(truth) == PRODUCTS
        for checker in checkers:
            assert_holds_truth(checker, truth)
        await _assert_trades_are_those_of_rest(mesh, checkers)
        await _assert_http_snapshots_are_the_state(mesh, checkers[0])
        recorder.assert_models_accept()
        assert recorder.increments > 0
        # A machine that was busy for a moment may have been told of; but no stream is left that is not live.
        last = {(status.product, status.channel): status for status in recorder.statuses}
        assert not [status for status in last.values() if status.state != "live"]
        print(f"\n{sent} venue messages in {seconds} s; {recorder.increments} increments at each client")  # noqa: T201


async def _assert_trades_are_those_of_rest(mesh: LiveMesh, checkers: list[Checker]) -> None:
    """The last trades of the busiest products, as the exchange's REST API lists them, digit for digit."""
    for product in (await products_of(mesh))[:8]:
        rows = await mesh.sim(f"products/{product}/trades?limit=1000")
        listed = {
            row["trade_id"]: (row["price"], row["size"], {"buy": "sell", "sell": "buy"}[row["side"]]) for row in rows
        }
        for checker in checkers:
            trades = checker.trades(product)
            assert trades is not None
            held = {trade.trade_id: trade[1:] for trade in trades.held if trade.trade_id in listed}
            assert held, product
            assert held == {number: listed[number] for number in held}, product


async def _assert_http_snapshots_are_the_state(mesh: LiveMesh, checker: Checker) -> None:
    """`/v1/snapshot` of a quiet product is what the increments have led to."""
    decode = msgspec.json.Decoder(Snapshot).decode
    for product in (await products_of(mesh))[:3]:
        ticker = decode(await mesh.snapshot(product, "ticker"))
        assert Position(ticker.epoch, ticker.seq) == checker.position(product, "ticker")
        assert ticker_of(decode_ticker(ticker.state)) == checker.ticker(product)
        snapshot = decode(await mesh.snapshot(product, "book"))
        assert Position(snapshot.epoch, snapshot.seq) == checker.position(product, "book")
        book, problems = Book.of([decode_book(snapshot.state)])
        held = checker.book(product)
        assert held is not None
        assert (held.difference(book), problems) == (None, [])


def test_what_one_client_gets_is_byte_for_byte_what_another_gets(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mesh_up(tmp_path, "--rate", "2000", "--products", "5") as mesh:
            recorders = [Recorder(), Recorder()]
            async with client(mesh, recorders[0]) as first, client(mesh, recorders[1]) as second:
                for session, recorder in ((first, recorders[0]), (second, recorders[1])):
                    await started(session, recorder)
                    await session.until(lambda recorder=recorder: recorder.increments > 2000, 30)  # type: ignore[misc]
            assert_clean(recorders)
            one, other = (recorder.increments_by_position() for recorder in recorders)
            both = one.keys() & other.keys()
            assert len(both) > 1000
            assert [key for key in both if one[key] != other[key]] == []

    run(scenario(), 100)
