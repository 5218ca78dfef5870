"""One gateway and a crowd of clients: at saturation, beside slow ones, and ten thousand that come back at once.

The load generator drives a whole mesh, and checks every client it is told to: positions, trade ids, snapshots, and that
all get the same bytes. What it measured is printed, and belongs into no assertion.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from lfmesh.types import Role
from loadgen.load.config import LoadConfig
from loadgen.load.report import LoadReport
from loadgen.load.run import run as load
from tests.aio import run
from tests.integration.mesh import LiveMesh, mesh_up

ALL = ("ticker", "trades", "book")
HELD = 10_000


def assert_right(report: LoadReport) -> None:
    """Nobody was sent what the protocol forbids, nothing was lost without a word, and everybody got the same."""
    assert report.violations == {}, report.first_violations
    assert report.differing == 0, report.differences
    assert (report.gaps, report.not_joined, report.errors) == (0, 0, {})
    assert report.compared > 0


def told(what: str, report: LoadReport) -> None:
    shown = {name: value for name, value in msgspec.to_builtins(report).items() if value not in (None, {}, [], 0)}
    print(f"\n{what}: {shown}")  # noqa: T201


@pytest.mark.parametrize(
    ("clients", "seconds"), [(30, 3.0), pytest.param(200, 20.0, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
def test_at_saturation_every_client_is_kept_to_every_promise(tmp_path: Path, clients: int, seconds: float) -> None:
    async def scenario() -> None:
        # Each change of a book by itself: more than all that is checked of it here can be taken.
        each = {"LFMESH_VENUE__CHANNELS": '["heartbeat", "ticker", "matches", "level2"]'}
        async with mesh_up(tmp_path, "--rate", "6000", "--products", "20", "--shards", "1", env=each) as mesh:
            report = await load(
                LoadConfig(
                    url=mesh.ws_url,
                    channels=ALL,
                    clients=clients,
                    duration_s=seconds,
                    check=1.0,
                    full_check=0.05,
                    join_timeout_s=30.0,
                )
            )
            told(f"{clients} clients", report)
            assert_right(report)
            assert report.checked == clients
            assert report.closes == {}

    run(scenario(), 90 + 4 * seconds)


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_slow_clients_are_told_and_right_in_the_end_and_cost_the_others_nothing(tmp_path: Path) -> None:
    """1,000 clients of which 50 are stalled and 50 read at a tenth of the rate."""

    async def spell(mesh: LiveMesh, slow: float) -> LoadReport:
        return await load(
            LoadConfig(
                url=mesh.ws_url,
                channels=ALL,
                clients=1000 if slow else 900,
                shape="random",
                products_each=4,
                zipf=0.0,
                slow=slow,
                stalled=slow,
                duration_s=25.0,
                settle_s=20.0,
                check=0.02,
                join_timeout_s=30.0,
            )
        )

    async def scenario() -> None:
        # Bounds that a test's minute reaches; 40 s without a byte would close the stalled ones.
        bounds = {"LFMESH_GATEWAY__OUTBOX_SOFT_BYTES": "262144", "LFMESH_GATEWAY__OUTBOX_AGE_S": "60"}
        async with mesh_up(tmp_path, "--rate", "3000", "--products", "40", "--shards", "1", env=bounds) as mesh:
            without = await spell(mesh, 0.0)
            beside = await spell(mesh, 0.05)
            told("without slow ones", without)
            told("beside slow ones", beside)
            for report in (without, beside):
                assert_right(report)
            assert sum(beside.outcomes.values()) == 100
            assert set(beside.outcomes) <= {"conflated", "kept_up", "closed"}
            assert beside.outcomes.get("conflated", 0) + beside.outcomes.get("closed", 0) >= 50
            assert beside.groups["good"].closes == {}
            assert max(role.rss_mb for role in beside.roles.values()) < 512

    run(scenario(), 380)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_ten_thousand_are_held_and_all_come_back_at_once(tmp_path: Path) -> None:
    """Two processes drive them; every client is checked, and resumes by position."""

    async def scenario() -> None:
        async with mesh_up(tmp_path, "--rate", "400", "--products", "40", "--shards", "1") as mesh:
            report = await load(
                LoadConfig(
                    url=mesh.ws_url,
                    channels=("ticker",),
                    clients=HELD,
                    processes=2,
                    shape="random",
                    products_each=2,
                    zipf=0.0,
                    join_rate=1500.0,
                    join_timeout_s=30.0,
                    duration_s=75.0,
                    drop_all_after_s=60.0,
                    check=1.0,
                )
            )
            told("ten thousand", report)
            assert_right(report)
            assert report.joined == HELD
            assert (report.dropped, report.rejoined) == (HELD, HELD)
            metrics = await mesh.metrics(Role.GATEWAY)
            resumed = {name: value for name, value in metrics.items() if "resumes_total" in name}
            print(f"resumes: {resumed}")  # noqa: T201
            # Most go on where they were. Who had a quiet product only gets its snapshot.
            assert sum(resumed.values()) >= 2 * HELD * 0.9

    with many_files():
        run(scenario(), 500)


@contextmanager
def many_files() -> Iterator[None]:
    """As many open files as ten thousand connections need; skipped where the system does not allow that."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < HELD + 1000:
        pytest.skip(f"the system allows {hard} open files; {HELD + 1000} are needed")
    wanted = hard if hard != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
