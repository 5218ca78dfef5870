"""Clients that were away: served from rings, over restarted gateways, and right where nothing is retained any more."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lfmesh.cli.makers import maker
from lfmesh.services.gateway.statistics import GatewayStatistics
from lfmesh.services.runtime import Running, running
from lfmesh.types import Role
from loadgen.client.checker import Checker
from loadgen.client.session import Session
from loadgen.sim import SimConfig
from tests.aio import run
from tests.integration.clients import CHANNELS, assert_clean, assert_holds_truth, client, quiet, started
from tests.integration.mesh import LiveMesh, assembled, wait_for

AWAY_MESSAGES = int(os.environ.get("LFMESH_TEST_AWAY_MESSAGES", "3500"))
"""What a client misses; 300,000 are five minutes at 1,000 a second (`make soak`)."""
_SPEED_MSGS_S = 3000
Changes = dict[str, dict[str, Any]]
"""Keys of the configuration, by section."""
SMALL_RINGS: Changes = {"gateway": {"ring_bytes": 65536}, "normalizer": {"retransmit_ring_bytes": 200_000}}


def statistics(life: Running) -> GatewayStatistics:
    found = life.service.statistics()
    assert isinstance(found, GatewayStatistics)
    return found


def reasons(checker: Checker) -> Counter[str]:
    """Snapshots by reason, over all streams."""
    return sum((stream.reasons for _, stream in checker.streams()), Counter())


async def passes(life: Running, messages: int, within_s: float) -> None:
    """The gateway has been sent so many messages more."""
    start = statistics(life).messages_received_total

    async def passed() -> bool:
        return statistics(life).messages_received_total >= start + messages

    await wait_for(passed, within_s, f"{messages} messages")


async def whole(mesh: LiveMesh, sessions: Sequence[tuple[Session, Checker]]) -> None:
    """Stop the exchange, wait until everything has come, and compare with the truth."""
    assert mesh.simulator is not None
    mesh.simulator.pause()
    await quiet(sessions)
    truth = await mesh.truth()
    for _, checker in sessions:
        assert_clean([checker])
        assert_holds_truth(checker, truth)


async def resumed(mesh: LiveMesh, checker: Checker, session: Session) -> None:
    assert mesh.simulator is not None
    await session.subscribe(mesh.simulator.products, CHANNELS, from_seq=checker.resume_positions())
    await started(session, checker)


async def away(folder: Path, messages: int, rings: Changes) -> tuple[Checker, GatewayStatistics]:
    """A client that misses so many messages, comes back with its positions, and is whole in the end."""
    simulator = SimConfig(product_count=4, rate_msgs_s=_SPEED_MSGS_S, seed=5)
    within_s = 60 + 3 * messages / _SPEED_MSGS_S
    async with assembled(folder, simulator, shards=2, changes=rings) as mesh:
        gateway = mesh.roles[Role.GATEWAY]
        checker = Checker()
        async with client(mesh, checker) as session:
            await started(session, checker)
            await session.until(lambda: checker.increments > 200, 30)
        await passes(gateway, messages, within_s)
        async with Session(mesh.ws_url, checker) as session:
            await resumed(mesh, checker, session)
            await whole(mesh, [(session, checker)])
        return checker, statistics(gateway)


def _served_without_snapshots(folder: Path, messages: int, rings: Changes, rung: str = "retransmission") -> None:
    checker, figures = run(away(folder, messages, rings), 100 + messages / 500)
    assert reasons(checker).keys() <= {"subscribe", "epoch"}
    assert checker.declared_gaps() == []
    assert figures.resumes_total["snapshot"] == 0
    assert figures.resumes_total[rung] > 0, "what is nearer was too small for it"
    assert checker.from_before > messages // 4


def test_who_was_away_for_long_is_served_from_the_normalizers_rings(tmp_path: Path) -> None:
    """The shorter form: a gateway's ring in the proportion that 64 MB have to five minutes."""
    _served_without_snapshots(tmp_path, AWAY_MESSAGES, {"gateway": {"ring_bytes": 1024 * 1024}})


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_five_minutes_worth_of_messages_come_from_rings_of_the_usual_size(tmp_path: Path) -> None:
    _served_without_snapshots(tmp_path, max(AWAY_MESSAGES, 300_000), {})


def test_past_the_rings_what_follows_comes_from_the_archive(tmp_path: Path) -> None:
    _served_without_snapshots(tmp_path, AWAY_MESSAGES, SMALL_RINGS, "archive")


def test_past_retention_a_resume_fails_and_is_right_all_the_same(tmp_path: Path) -> None:
    """What nobody retains any more is declared; all that somebody has comes."""
    small = {**SMALL_RINGS, "archive": {"enabled": False}}
    checker, figures = run(away(tmp_path, AWAY_MESSAGES, small), 120)
    assert reasons(checker)["resume_failed"] > 0
    assert figures.resumes_total["snapshot"] > 0
    declared = checker.declared_gaps()
    assert declared
    positions = {product: checker.trades(product) for product, _, _ in declared}
    for product, first, last in declared:
        trades = positions[product]
        assert trades is not None
        assert not any(first <= trade.trade_id <= last for trade in trades.held), "declared is what did not come"


# Gateways that end and start ------------------------------------------------------------------------------------


class Doors:
    """The gateways that are open, as a load balancer knows them."""

    def __init__(self) -> None:
        self.open: list[Running] = []

    @asynccontextmanager
    async def gateway(self, like: Running, instance: str) -> AsyncIterator[Running]:
        """Another gateway of the same mesh, until it is stopped."""
        config = like.config.override({"gateway": {"instance": instance}})
        async with running(maker(Role.GATEWAY, None), config, Role.GATEWAY) as life:
            await ready(life)
            self.open.append(life)
            yield life

    async def stop(self, life: Running) -> None:
        """As SIGTERM does."""
        self.open.remove(life)
        await life.stop()

    def url(self, turn: int) -> str:
        record = self.open[turn % len(self.open)].record
        assert record is not None
        return record.http.rstrip("/").replace("http", "ws", 1) + "/ws"


async def ready(life: Running) -> None:
    async def is_ready() -> bool:
        return not life.readiness()

    await wait_for(is_ready, 30, "a gateway that is ready")


class Traveller:
    """A client that goes where it is told to, and resumes by position wherever it comes."""

    def __init__(self, mesh: LiveMesh, doors: Doors, number: int) -> None:
        self.checker = Checker()
        self.session: Session | None = None
        self.arrived = asyncio.Event()
        self.moves = 0
        self._mesh = mesh
        self._doors = doors
        self._number = number
        self._stay = asyncio.Event()

    async def travel(self) -> None:
        """Follow everything until `stay`, and be left connected then."""
        stack = AsyncExitStack()
        checker = self.checker
        while True:
            session = await stack.enter_async_context(Session(self._doors.url(self._number + self.moves), checker))
            if self.moves:
                await resumed(self._mesh, checker, session)
            else:
                assert self._mesh.simulator is not None
                await session.subscribe(self._mesh.simulator.products, CHANNELS)
                await started(session, checker)
            self.session = session
            self.arrived.set()
            await session.until(lambda: checker.going_away or self._stay.is_set(), 60)
            if self._stay.is_set():
                self._stack = stack
                return
            await stack.aclose()
            self.moves += 1

    def stay(self) -> None:
        self._stay.set()

    async def leave(self) -> None:
        await self._stack.aclose()


def test_a_rolling_restart_of_two_gateways_loses_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        simulator = SimConfig(product_count=6, rate_msgs_s=800, seed=11)
        changes = {"gateway": {"drain_s": 0.6}}
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(assembled(tmp_path, simulator, changes=changes))
            first = mesh.roles[Role.GATEWAY]
            await ready(first)
            doors = Doors()
            doors.open.append(first)
            second = await stack.enter_async_context(doors.gateway(first, "gateway-1"))
            travellers = [Traveller(mesh, doors, number) for number in range(6)]
            async with asyncio.TaskGroup() as journeys:
                for one in travellers:
                    journeys.create_task(one.travel())
                async with asyncio.timeout(30):
                    for one in travellers:
                        await one.arrived.wait()
                for leaving, name in ((first, "gateway-0"), (second, "gateway-1")):
                    await passes(leaving, 500, 30)
                    await doors.stop(leaving)
                    await stack.enter_async_context(doors.gateway(first, name))
                await passes(doors.open[-1], 500, 30)
                for one in travellers:
                    one.stay()
            sessions = [(one.session, one.checker) for one in travellers if one.session is not None]
            await whole(mesh, sessions)
            for one in travellers:
                assert reasons(one.checker).keys() <= {"subscribe", "epoch"}
                assert one.checker.declared_gaps() == []
                await one.leave()
            assert sum(one.moves for one in travellers) >= 6
            assert all(statistics(life).closes_total.keys() <= {"1000", "1001"} for life in (first, second))

    run(scenario(), 120)
