"""What is kept outlives every process, on real stores: DynamoDB and S3 ("Shown by" 2 of durable snapshots)."""

import random
import sys
from pathlib import Path

import pytest

from lfmesh.core.statehash import state_hash
from loadgen.client.checker import Checker
from loadgen.sim import SimConfig, Simulator, serve
from tests import stores
from tests.aio import run
from tests.integration.clients import assert_clean, client, quiet, started, tape
from tests.integration.durable import Durable, durable, state_hash_in
from tests.integration.mesh import LiveMesh, assembled, wait_for
from tests.integration.test_tape import assert_is_the_tape, play, straight_from_the_tape

FRAMES = 9946
SEEDS = [pytest.param(seed, marks=() if seed < 2 else pytest.mark.soak) for seed in range(10)]


async def undisturbed_hash(path: Path, folder: Path) -> str:
    """State hash of a client of a mesh to which nothing was done."""
    async with assembled(folder, SimConfig(tape=path, tape_speed="max", tape_start="subscribe"), shards=1) as mesh:
        checker = await play(mesh)
    assert_is_the_tape(checker, path)
    return state_hash(checker.product_states())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_all_processes_killed_at_random_moments_lose_nothing(tmp_path: Path, seed: int) -> None:
    path = tape()
    moments = sorted(random.Random(seed).sample(range(200, FRAMES - 200), 1 + seed % 3))

    async def scenario() -> None:
        with stores.dynamodb() as dynamodb, stores.s3() as s3:
            keys = {
                "store": {**dynamodb.store(), **s3.store(), "create": True},
                "archive": {"segment_max_age_s": 2.0, "snapshot_interval_s": 1.0},
            }
            simulator = SimConfig(tape=path, tape_speed=8.0, tape_start="control")
            async with serve(simulator) as sim:
                mesh = Durable.on(tmp_path, sim, keys, {**dynamodb.environment, **s3.environment})
                async with durable(mesh):
                    live = await mesh.up()
                    await wait_for(
                        lambda: all_ready(live, sim), 60, "snapshotters that follow, and the venue subscribed"
                    )
                    sim.start()
                    for moment in moments:

                        async def reached(moment: int = moment) -> bool:
                            return bool(sim.status()["sent"] >= moment)  # type: ignore[operator]

                        await wait_for(reached, 60, f"frame {moment}")
                        await mesh.kill_everything()
                        live = await mesh.up()
                    await sim.wait_finished()
                    checker = Checker()
                    async with client(live, checker) as session:
                        await started(session, checker)
                        await quiet([(session, checker)])
                    assert_clean([checker])
                    assert_books_and_tickers(checker, path)
                    await mesh.end()
                    verified = await mesh.command("store", "verify")
                    assert state_hash_in(await mesh.command("replay", "--hash")) == await undisturbed_hash(
                        path, tmp_path / "undisturbed"
                    )
                    sys.stdout.write(f"\nseed {seed}, killed at frames {moments}: {verified.splitlines()[-1]}\n")

    run(scenario(), 280)


async def all_ready(mesh: LiveMesh, sim: Simulator) -> bool:
    """Whether what the tape brings from its first frame on will be followed: the mesh is up."""
    heard = sim.status()["subscribed"]
    assert isinstance(heard, dict)
    following = [await mesh.is_ready(name) for name in ("snapshotter-0", "snapshotter-1")]
    return all(following) and len(heard["matches"]) == len(heard["ticker"]) == len(sim.products)


def assert_books_and_tickers(checker: Checker, path: Path) -> None:
    """The state in the end is the tape's."""
    books, matches = straight_from_the_tape(path)
    for product, sides in books.items():
        book, ticker = checker.book(product), checker.ticker(product)
        assert book is not None
        assert ticker is not None
        assert book.bids() == [sides["bids"][px] for px in sorted(sides["bids"], reverse=True)], product
        assert book.asks() == [sides["asks"][px] for px in sorted(sides["asks"])], product
        if matches[product]:
            assert ticker.last_trade == matches[product][-1], product
