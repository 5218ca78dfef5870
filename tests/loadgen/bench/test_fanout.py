"""The fan-out benchmarks measure what they say: a real gateway process, and what was counted was delivered."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from loadgen.bench.audience import Audience
from loadgen.bench.counters import Counters
from loadgen.bench.rivals import bare, broadcast, nats, nchan
from loadgen.bench.rivals.rival import Rival, Seats
from loadgen.bench.rounds import one_round
from loadgen.bench.shapes import RANDOM, SAME, Shape, saturated
from loadgen.bench.ticks import WHOLE, tick


def test_deliveries_are_those_that_the_gateway_counts() -> None:
    shape = Shape("a few", 4, 6, 3, 300)
    with saturated(shape) as (mesh, counters):
        for kind, per_frame in (("short", 1), (WHOLE, 4)):
            mesh.publish(kind, per_frame)
            received, before = sum(counters.values), mesh.gateway.figures()
            found = one_round(mesh, counters, 0.1, ramp_s=0.05)
            received, after = sum(counters.values) - received, mesh.gateway.figures()
            assert received % mesh.each == 0, "whole frames, and nothing else"
            assert after["deliveries_total"] - before["deliveries_total"] == received // mesh.each
            assert found.per_s > 0
            assert found.per_cpu_s > 0
        mesh.check()


def test_shapes_are_what_their_names_say() -> None:
    assert len({tuple(names) for names in SAME.subscriptions()}) == 1
    wanted = RANDOM.subscriptions()
    assert len(wanted) == 200
    assert {len(set(names)) for names in wanted} == {20}
    assert len({name for names in wanted for name in names}) > 450


RIVALS: dict[str, tuple[Callable[..., AbstractContextManager[Rival]], str]] = {
    "bare": (bare, ""),
    "broadcast": (broadcast, ""),
    "nats": (nats, "nats-server"),
    "nchan": (nchan, "nginx"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Whose path is short enough, and open to a server's workers."""
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize("name", ["bare", *(pytest.param(name, marks=pytest.mark.soak) for name in [*RIVALS][1:])])
def test_a_rival_delivers_what_is_published(name: str, folder: Path) -> None:
    start, program = RIVALS[name]
    if program and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    with Counters(folder / "counters", 3) as counters, Audience(counters.path) as audience:
        seats = Seats(counters.path, slice(0, 3), tick("P000-USD"))
        started = partial(start, audience, seats)
        with started(folder) if program else started() as rival:
            found = one_round(rival, counters, 0.1, ramp_s=0.05)
            assert found.per_s > 0
            assert min(counters.values) > 0, "every client got something"
            assert audience.faults() == []
