"""A recorded tape through the whole mesh, as `lfmesh up` runs it, against the tape itself ("Shown by" 2 and 4)."""

import asyncio
import json
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from lfmesh.core.statehash import state_hash
from loadgen.client.checker import Checker
from loadgen.sim import SimConfig
from tests.aio import run
from tests.integration.clients import assert_clean, client, quiet, started, tape
from tests.integration.mesh import LiveMesh, assembled, mesh_up, wait_for

Books = dict[str, dict[str, dict[Decimal, tuple[str, str]]]]


def straight_from_the_tape(path: Path) -> tuple[Books, dict[str, list[tuple[int, str, str, str]]]]:
    """Books and matches by plain json and dicts: nothing of the mesh."""
    books: Books = {}
    matches: dict[str, list[tuple[int, str, str, str]]] = defaultdict(list)
    for line in path.read_text().splitlines():
        frame = json.loads(line.split("\t", 1)[1])
        if frame["type"] == "snapshot":
            books[frame["product_id"]] = {
                side: {Decimal(px): (px, qty) for px, qty in frame[side]} for side in ("bids", "asks")
            }
        elif frame["type"] == "l2update":
            for side, px, qty in frame["changes"]:
                levels = books[frame["product_id"]]["bids" if side == "buy" else "asks"]
                levels[Decimal(px)] = (px, qty)
                if not Decimal(qty):
                    del levels[Decimal(px)]
        elif frame["type"] == "match":
            taker = {"buy": "sell", "sell": "buy"}[frame["side"]]
            matches[frame["product_id"]].append((frame["trade_id"], frame["price"], frame["size"], taker))
    return books, matches


async def play(mesh: LiveMesh) -> Checker:
    """Follow everything from before the tape's first frame to its end."""
    checker = Checker()
    async with client(mesh, checker) as session:

        async def finished() -> Any:  # noqa: ANN401 - JSON
            return (await mesh.sim("control/status"))["finished"]

        await wait_for(finished, 60, "the end of the tape")
        await started(session, checker)
        await quiet([(session, checker)])
    assert_clean([checker])
    return checker


def assert_is_the_tape(checker: Checker, path: Path) -> None:
    books, matches = straight_from_the_tape(path)
    assert sum(map(len, matches.values())) == 97
    assert len(books) == 10
    for product, sides in books.items():
        book, ticker, trades = checker.book(product), checker.ticker(product), checker.trades(product)
        assert book is not None
        assert ticker is not None
        assert trades is not None
        bids = [sides["bids"][px] for px in sorted(sides["bids"], reverse=True)]
        asks = [sides["asks"][px] for px in sorted(sides["asks"])]
        assert book.bids() == bids, product
        assert book.asks() == asks, product
        assert (ticker.best_bid, ticker.best_ask) == (bids[0], asks[0]), product
        assert [tuple(trade) for trade in trades.held] == matches[product], product
        assert trades.declared == []
        if matches[product]:
            assert ticker.last_trade == matches[product][-1], product


def test_the_state_at_the_end_is_that_of_the_tape_and_the_same_in_two_runs(tmp_path: Path) -> None:
    path = tape()
    arguments = ("--source", f"tape:{path}", "--speed", "10")

    async def one_run(number: int) -> Checker:
        async with mesh_up(tmp_path / str(number), *arguments) as mesh:
            return await play(mesh)

    async def two_runs() -> tuple[Checker, Checker]:
        return await asyncio.gather(one_run(1), one_run(2))

    first, second = run(two_runs(), 110)
    assert_is_the_tape(first, path)
    assert_is_the_tape(second, path)
    assert state_hash(first.product_states()) == state_hash(second.product_states())


def test_neither_speed_nor_shards_change_the_state(tmp_path: Path) -> None:
    path = tape()

    async def one_run(speed: float | str, shards: int) -> Checker:
        config = SimConfig(tape=path, tape_speed="max" if speed == "max" else float(speed), tape_start="control")
        async with assembled(tmp_path / str(shards), config, shards=shards) as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await wait_for(_everything_is_subscribed(mesh), 20, "the venue's subscriptions")
                assert mesh.simulator is not None
                mesh.simulator.start()
                await mesh.simulator.wait_finished()
                await started(session, checker)
                await quiet([(session, checker)])
            assert_clean([checker])
            return checker

    fast, slower = run(one_run("max", 1), 100), run(one_run(20, 3), 100)
    assert_is_the_tape(fast, path)
    assert state_hash(fast.product_states()) == state_hash(slower.product_states())


def _everything_is_subscribed(mesh: LiveMesh) -> Any:  # noqa: ANN401
    async def subscribed() -> bool:
        assert mesh.simulator is not None
        status = mesh.simulator.status()
        heard = status["subscribed"]
        assert isinstance(heard, dict)
        return len(heard["matches"]) == status["products"] == len(heard["ticker"])

    return subscribed
