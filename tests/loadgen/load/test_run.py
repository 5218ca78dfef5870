"""Loads against a whole mesh, with a simulated exchange behind it."""

import asyncio
from pathlib import Path

import pytest

from lfmesh.errors import LfmeshError
from loadgen.load.config import OFFENCES, Behaviour, LoadConfig
from loadgen.load.report import LoadReport
from loadgen.load.roles import RoleAddress
from loadgen.load.run import Shown, resolved, run
from loadgen.sim import SimConfig
from tests.aio import run as run_within
from tests.integration.mesh import assembled

ALL = ("ticker", "trades", "book")


def test_loads_of_every_kind(tmp_path: Path) -> None:
    """One mesh for all, since starting it takes longest."""

    async def loads() -> None:
        simulator = SimConfig(product_count=4, rate_msgs_s=400)
        async with assembled(tmp_path, simulator, shards=1, changes={"gateway": {"drain_s": 0.0}}) as mesh:
            url = mesh.ws_url
            await refused(url)
            good, mixed, shared, early = await asyncio.gather(
                run(
                    LoadConfig(
                        url=url, clients=6, channels=ALL, shape="random", products_each=2, duration_s=1.0, check=0.5,
                        full_check=0.2, drop_all_after_s=0.4, join_rate=100,
                    ),
                    roles=[RoleAddress("gateway-0", mesh.http_url), RoleAddress("nobody", "http://127.0.0.1:1")],
                ),
                run(
                    LoadConfig(
                        url=url, clients=14, duration_s=1.0, slow=0.08, stalled=0.08, flapping=0.15, misbehaving=0.5,
                        flap_every_s=0.3, slow_bytes_per_s=5000,
                    )
                ),
                run(LoadConfig(url=url, clients=4, processes=2, duration_s=0.5, check=1.0, conflate_ms=100)),
                stopped_early(url),
            )  # fmt: skip
        assert (good.joined, good.not_joined, good.violations_total, good.differing) == (6, 0, 0, 0)
        assert (good.dropped, good.rejoined) == (6, 6)
        assert good.groups["good"].latency.count > 0
        assert good.latency_p50_ms is not None
        assert good.publish_latency_p50_ms is not None
        assert 0 < good.publish_latency_p50_ms <= good.latency_p50_ms
        assert good.deliveries_per_s > 100
        assert good.compared > 0
        assert good.join.count == 6
        assert good.gateway["deliveries_total"] > 0
        assert set(good.roles) == {"gateway-0"}
        assert good.roles["gateway-0"].rss_mb > 10

        groups = mixed.groups
        assert set(OFFENCES) | {Behaviour.GOOD, Behaviour.SLOW, Behaviour.STALLED, Behaviour.FLAPPING} == set(groups)
        assert mixed.violations_total == 0, mixed.first_violations
        assert groups["flapping"].connections > groups["flapping"].clients
        assert groups["stalled"].deliveries == 0
        assert sum(mixed.outcomes.values()) == 2
        assert set(mixed.outcomes) <= {"kept_up", "conflated"}
        assert groups["oversized"].closes["1009"] > 0
        assert groups["invalid_frame"].closes
        assert mixed.gateway["errors_total.INVALID_JSON"] > 0
        assert groups["good"].latency.count > 0

        assert (shared.processes, shared.joined, shared.violations_total) == (2, 4, 0), shared.first_violations
        assert shared.merged > 0
        assert shared.load.rss_mb > 20
        assert early.duration_s < 5

    run_within(loads(), timeout=60)


async def stopped_early(url: str) -> LoadReport:
    """A long run that is stopped while it is shown."""
    stop = asyncio.Event()
    phases: list[str] = []

    def show(shown: Shown) -> None:
        phases.append(shown.phase)
        if shown.phase == "running":
            stop.set()

    found = await run(LoadConfig(url=url, clients=2, duration_s=600), stop=stop, on_progress=show)
    assert found.joined == 2
    assert phases[0] == "joining"
    return found


async def refused(url: str) -> None:
    with pytest.raises(LfmeshError, match="does not know NOPE-USD; it carries BTC-USD"):
        await resolved(LoadConfig(url=url, products=("NOPE-USD",)))
    with pytest.raises(LfmeshError, match="2 clients can't be spread over 3 processes"):
        await resolved(LoadConfig(url=url, clients=2, processes=3))
    with pytest.raises(LfmeshError, match="more than 1"):
        await resolved(LoadConfig(url=url, slow=0.9, stalled=0.9))
    with pytest.raises(LfmeshError, match="answers HTTP 404"):
        await run(LoadConfig(url=url.removesuffix("/ws") + "/nowhere", clients=2))


def test_nobody_there() -> None:
    with pytest.raises(LfmeshError, match=r"no answer from http://127\.0\.0\.1:1/products"):
        asyncio.run(run(LoadConfig(url="ws://127.0.0.1:1/ws")))
    with pytest.raises(LfmeshError, match="is no WebSocket address"):
        asyncio.run(run(LoadConfig(url="http://127.0.0.1:1/ws")))
