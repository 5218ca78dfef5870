"""Either of two killed under load: ingestors A and B, and the two normalizers of a shard ("Shown by" 3).

Clients that check every promise follow every stream meanwhile. What must hold are facts of the protocol: no violation,
no trade declared missing, trades that go on in their epoch, and the exchange's truth in the end. How long data stood
still is printed, never asserted.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lfmesh.errors import LfmeshError
from lfmesh.types import Role
from loadgen.client.session import Session
from tests.aio import run
from tests.integration.clients import assert_clean, assert_holds_truth, client, quiet, started
from tests.integration.mesh import LiveMesh, mesh_up, wait_for
from tests.integration.pauses import PausedChecker

CLIENTS = 3
_WHOLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """How hard the mesh works, and how often either of the pair is killed; `between`: increments after each kill."""

    rate: int
    products: int
    rounds: int
    between: int
    shards: int = 2


LOADS = [
    pytest.param(Load(rate=1000, products=6, rounds=1, between=150, shards=1), id="short"),
    pytest.param(
        Load(rate=5000, products=20, rounds=2, between=10_000),
        id="long",
        marks=[pytest.mark.soak, pytest.mark.timeout(900)],
    ),
]


@dataclass(slots=True)
class Trial:
    """A mesh under load, its clients, and the pauses that they saw, by what was done."""

    mesh: LiveMesh
    load: Load
    clients: list[tuple[Session, PausedChecker]]
    pauses: dict[str, list[float]] = field(default_factory=dict)

    async def more(self, count: int) -> None:
        """Let every client get so many increments more."""
        for session, checker in self.clients:
            wanted = checker.increments + count
            await session.until(lambda c=checker, w=wanted: c.increments >= w, _WHOLE_WITHIN_S)  # type: ignore[misc]

    async def steady(self) -> None:
        """The pauses of a mesh to which nothing is done, to compare with."""
        self._take("")
        await self.more(self.load.between)
        self._take("nothing killed")

    async def kill(self, instance: str, whole: Callable[[], Awaitable[bool]], what: str) -> None:
        """Kill a process, and wait until it is back and `whole` says that the pair is one again."""
        pid = self.mesh.pid(instance)
        self._take("")
        os.kill(pid, signal.SIGKILL)

        async def back() -> bool:
            with suppress(OSError, LfmeshError, KeyError):
                return self.mesh.pid(instance) != pid and await self.mesh.is_ready(instance) and await whole()
            return False

        await wait_for(back, _WHOLE_WITHIN_S, f"{instance} is back")
        await self.more(self.load.between)
        self._take(f"{what} killed")

    def _take(self, what: str) -> None:
        taken = [checker.take_pause_ms() for _, checker in self.clients]
        if what:
            self.pauses.setdefault(what, []).extend(taken)

    async def judge(self) -> None:
        """Stop the exchange; nothing may be lost, repeated or unequal."""
        checkers = [checker for _, checker in self.clients]
        await self.mesh.sim("control/pause")
        await quiet(self.clients)
        assert_clean(checkers)
        for checker in checkers:
            assert checker.declared_gaps() == []
            assert_holds_truth(checker, await self.mesh.truth())
        await self._assert_every_trade_came()
        for what, pauses in self.pauses.items():
            print(  # noqa: T201 - figures for people
                f"\n{what:<24} {len(pauses):3} client pauses: median {sorted(pauses)[len(pauses) // 2]:7.1f} ms, "
                f"longest {max(pauses):7.1f} ms",
                end="",
            )
        print()  # noqa: T201

    def products(self) -> list[str]:
        """Every product."""
        return sorted({key.product for key, _ in self.clients[0][1].streams()})

    async def _assert_every_trade_came(self) -> None:
        """From the first one that each client was shown, digit for digit."""
        for product in self.products():
            for _, checker in self.clients:
                trades = checker.trades(product)
                assert trades is not None
                held = {trade.trade_id: trade[1:] for trade in trades.held}
                rows = await self.mesh.sim(f"truth/{product}/trades?after={min(held) - 1}")
                taker = {"buy": "sell", "sell": "buy"}
                expected = {row["trade_id"]: (row["price"], row["size"], taker[row["side"]]) for row in rows}
                known = {trade_id: held.get(trade_id) for trade_id in expected}
                assert known == expected, product


def epoch_of(checker: PausedChecker, product: str) -> int:
    """The epoch of a product's trades."""
    position = checker.position(product, "trades")
    assert position is not None
    return position.epoch


async def trial(stack: AsyncExitStack, data_dir: Path, load: Load, *options: str) -> Trial:
    """A mesh under load with its clients, every stream begun."""
    size = ("--rate", str(load.rate), "--products", str(load.products), "--shards", str(load.shards))
    mesh = await stack.enter_async_context(mesh_up(data_dir, *size, *options))
    shards = {product["id"]: product["shard"] for product in (await mesh.gateway("products"))["products"]}
    clients = []
    for _ in range(CLIENTS):
        checker = PausedChecker(shards)
        session = await stack.enter_async_context(client(mesh, checker))
        clients.append((session, checker))
    for session, checker in clients:
        await started(session, checker)
    return Trial(mesh, load, clients)


@pytest.mark.parametrize("load", LOADS)
def test_killing_either_ingestor_loses_nothing(tmp_path: Path, load: Load) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            under_test = await trial(stack, tmp_path, load, "--lines", "AB")
            mesh = under_test.mesh

            async def both_heard() -> bool:
                metrics = await mesh.metrics(Role.NORMALIZER)
                heard = [value for name, value in metrics.items() if name.startswith("lfmesh_normalizer_ingestors_att")]
                return heard == [2.0] * load.shards

            await wait_for(both_heard, _WHOLE_WITHIN_S, "both ingestors at both normalizers")
            await under_test.steady()
            first = {product: epoch_of(under_test.clients[0][1], product) for product in under_test.products()}
            for _ in range(load.rounds):
                for victim in ("ingestor-A", "ingestor-B"):
                    await under_test.kill(victim, both_heard, "an ingestor of two")
            await under_test.judge()
            checker = under_test.clients[0][1]
            assert {product: epoch_of(checker, product) for product in first} == first, "trades go on in their epoch"

    run(scenario(), 100 if load.rounds == 1 else 800)


@pytest.mark.parametrize("load", LOADS)
def test_killing_either_normalizer_of_a_pair_loses_nothing(tmp_path: Path, load: Load) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            under_test = await trial(stack, tmp_path, load, "--standby")
            mesh = under_test.mesh

            async def duties() -> dict[str, bool]:
                """Which of shard 0's pair is active."""
                metrics = await mesh.metrics(Role.NORMALIZER)
                return {
                    name: bool(metrics[f'lfmesh_normalizer_active{{instance="{name}",shard="0"}}'])
                    for name in ("normalizer-0", "normalizer-0-b")
                }

            async def a_pair() -> bool:
                ready = [await mesh.is_ready(name) for name in ("normalizer-0", "normalizer-0-b")]
                return all(ready) and sorted((await duties()).values()) == [False, True]

            await wait_for(a_pair, _WHOLE_WITHIN_S, "one active normalizer and one standby")
            await under_test.steady()
            first = {product: epoch_of(under_test.clients[0][1], product) for product in under_test.products()}
            for _ in range(load.rounds):
                active = {active: name for name, active in (await duties()).items()}
                await under_test.kill(active[True], a_pair, "the active normalizer")
                assert (await duties())[active[False]], "the standby has taken over"
                await under_test.kill(active[True], a_pair, "the standby normalizer")
                assert (await duties())[active[False]], "the standby's death changes nothing"
            await under_test.judge()
            checker = under_test.clients[0][1]
            assert {product: epoch_of(checker, product) for product in first} == first, "trades go on in their epoch"

    run(scenario(), 100 if load.rounds == 1 else 800)
