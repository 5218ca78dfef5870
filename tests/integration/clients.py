"""Checking clients for end-to-end tests, and what they are compared with."""

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.client.checker import Checker
from loadgen.client.run import model_fault
from loadgen.client.session import Session
from tests.integration.mesh import LiveMesh

CHANNELS = ("ticker", "trades", "book")
_QUIET_NS = 1_000_000_000


class Recorder(Checker):
    """A checker that keeps every frame, to be looked at when the run is over."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[bytes] = []

    def receive(self, frame: bytes, now: int) -> None:
        self.frames.append(frame)
        super().receive(frame, now)

    def increments_by_position(self) -> dict[tuple[str, str, int, int], bytes]:
        """Every increment, byte for byte, by (product, channel, epoch, seq)."""
        found = {}
        for frame in self.frames:
            if frame.startswith(b'{"op":"incr"'):
                data = msgspec.json.decode(frame)["data"]
                found[data["product"], data["channel"], data["epoch"], data["seq"]] = frame
        return found

    def assert_models_accept(self) -> None:
        """Every message on the wire validates against the published models."""
        faults = [f"{fault}: {frame[:300]!r}" for frame in self.frames if (fault := model_fault(frame))]
        assert faults[:3] == []


def tape() -> Path:
    """The recorded tape beside the project; the test is skipped where there is none."""
    given = os.environ.get("LFMESH_TEST_TAPE")
    path = Path(given) if given else Path(__file__).parents[3] / "shared/data/coinbase-exchange-2021-04-17.tape"
    if not path.is_file():
        pytest.skip(f"no tape at {path}; name one in LFMESH_TEST_TAPE")
    return path.resolve()


async def products_of(mesh: LiveMesh) -> list[str]:
    """The gateway's products."""
    return [product["id"] for product in (await mesh.gateway("products"))["products"]]


@asynccontextmanager
async def client[C: Checker](
    mesh: LiveMesh, checker: C, *, channels: Sequence[str] = CHANNELS, products: Sequence[str] | None = None
) -> AsyncIterator[Session]:
    """A connected client, subscribed to all products (or some) and channels."""
    async with Session(mesh.ws_url, checker) as session:
        await session.subscribe(await products_of(mesh) if products is None else products, channels)
        yield session


async def started(session: Session, checker: Checker, within_s: float = 30.0) -> None:
    """Wait until every stream has begun."""
    await session.until(lambda: checker.snapshots and not checker.unanswered and not checker.waiting(), within_s)


async def quiet(sessions: Sequence[tuple[Session, Checker]], within_s: float = 60.0) -> None:
    """Wait until every client was told that all of its streams are live, and has been sent no data for a second."""
    for session, checker in sessions:
        await session.until(partial(_is_quiet, checker), within_s)


def _is_quiet(checker: Checker) -> bool:
    return time.time_ns() - max(checker.last_data_at, 1) > _QUIET_NS and all(
        stream.status in ("", "live") for _, stream in checker.streams()
    )


def assert_clean(checkers: Sequence[Checker]) -> None:
    """No violation, no refused request."""
    for number, checker in enumerate(checkers):
        found = "\n".join(str(violation) for violation in checker.violations.first[:10])
        assert not checker.violations, f"client {number}: {checker.violations.total} violations:\n{found}"
        assert checker.errors == []


def assert_holds_truth(checker: Checker, truth: dict[str, dict[str, Any]]) -> None:
    """The client's picture of every product is the simulator's, digit for digit."""
    for product, expected in truth.items():
        book, ticker, trades = checker.book(product), checker.ticker(product), checker.trades(product)
        assert book is not None, product
        assert ticker is not None, product
        assert trades is not None, product
        assert [list(level) for level in book.bids()] == expected["bids"], f"{product}: bids"
        assert [list(level) for level in book.asks()] == expected["asks"], f"{product}: asks"
        assert _listed(ticker.best_bid) == expected["best_bid"], f"{product}: best bid"
        assert _listed(ticker.best_ask) == expected["best_ask"], f"{product}: best ask"
        last = ticker.last_trade
        assert (last.trade_id if last else None) == expected["last_trade_id"], f"{product}: last trade"


def _listed(level: tuple[str, str] | None) -> list[str] | None:
    return None if level is None else list(level)
