"""Every fault is visible: a counter, a line when it opens and one when it closes, and a mark in `lfmesh top`.

Each fault is made on a running mesh; then all four signs are waited for. Of a killed process the lines are the
supervisor's, and where the mesh itself notices, its own as well.
"""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from lfmesh.client import meshfile
from lfmesh.top.render import mended
from lfmesh.top.state import Row
from loadgen.client.checker import Checker
from loadgen.client.session import Session
from loadgen.client.violations import Kind
from tests.aio import run
from tests.integration.clients import client, started
from tests.integration.mesh import LiveMesh, mesh_up, wait_for
from tests.integration.witness import Mark, Witness

SIGNS_WITHIN_S = 40.0
LOGGED = ("--log-format", "json", "--log-level", "info")


@dataclass(frozen=True, slots=True)
class Line:
    """A log line; fields by name, a collection: any of these."""

    event: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, event: str, **fields: object) -> "Line":
        """The event and its fields."""
        return cls(event, fields)


@dataclass(frozen=True, slots=True)
class Signs:
    """What must be seen of a fault: every line of `opens` and `closes`, any of the counters, and one of the rows."""

    opens: Sequence[Line]
    closes: Sequence[Line]
    counters: Sequence[str]
    row: Callable[[Row], object]

    def missing(self, witness: Witness, since: Mark) -> list[str]:
        """What has not been seen yet, in words."""
        found = [
            f"{what}: no line {line.event!r} {line.fields or ''}"
            for what, lines in (("opened", self.opens), ("closed", self.closes))
            for line in lines
            if not witness.lines(since, line.event, **line.fields)
        ]
        if self.counters and not any(witness.grown(since, counter) > 0 for counter in self.counters):
            found.append(f"no counter of {', '.join(self.counters)} has grown")
        if not witness.rows(since, self.row):
            found.append("no row of lfmesh top shows it")
        return found


def killed(instance: str, *more: Line, counters: Sequence[str], closes: Sequence[Line] = ()) -> Signs:
    """A process that died: the supervisor says so, and that it works again; top counts its restart."""
    back = Line.of("unit", name=instance, state=("ready", "not ready"), restarts=(1, 2, 3))
    return Signs(
        opens=(Line.of("unit", name=instance, state=("restarting", "starting"), restarts=(1, 2, 3)), *more),
        closes=(back, *closes),
        counters=counters,
        row=lambda row: row.instance == instance and (row.restarts > 0 or row.state in ("silent", "gone")),
    )


async def seen(witness: Witness, since: Mark, what: str, signs: Signs) -> None:
    """Wait until all signs are there."""

    async def all_there() -> bool:
        return not signs.missing(witness, since)

    try:
        await wait_for(all_there, SIGNS_WITHIN_S, "")
    except AssertionError:
        missing = "\n  ".join(signs.missing(witness, since))
        said = witness.said(since)[-6000:]
        raise AssertionError(f"{what}:\n  {missing}\n--- said since ---\n{said}") from None


class Watched(NamedTuple):
    """A mesh, who looks on, and the client."""

    mesh: LiveMesh
    witness: Witness
    session: Session
    checker: Checker


@asynccontextmanager
async def watched(data_dir: Path, *options: str, env: dict[str, str] | None = None) -> AsyncIterator[Watched]:
    """A mesh with logs as JSON, one client that follows everything, and a witness."""
    async with mesh_up(data_dir, *LOGGED, "--shards", "1", "--products", "4", *options, env=env) as mesh:
        checker = Checker()
        async with client(mesh, checker) as session, Witness(mesh) as witness:
            await started(session, checker)

            async def every_role_told() -> bool:
                rows = witness.rows(Mark(0, 0, {}), lambda row: row.state == "ready")
                found = meshfile.read(data_dir)
                return found is not None and {row.instance for row in rows} == set(found.pids) - {"simulator"}

            await wait_for(every_role_told, SIGNS_WITHIN_S, "every role is ready")
            yield Watched(mesh, witness, session, checker)


async def back(mesh: LiveMesh, instance: str) -> None:
    """Wait until a role is ready."""
    await wait_for(lambda: mesh.is_ready(instance), SIGNS_WITHIN_S, f"{instance} is ready")


def test_every_killed_process_is_seen_to_go_and_to_come_back(tmp_path: Path) -> None:
    faults = {
        "snapshotter-0": killed("snapshotter-0", counters=["joined_total"]),
        "normalizer-0": killed(
            "normalizer-0",
            Line.of("new publisher", instance=("gateway-0", "gateway-1")),
            counters=["takeovers_total", "term_changes_total"],
        ),
        "gateway-1": killed("gateway-1", counters=["joined_total"]),
        "registry-1": killed(
            "registry-1",
            closes=[Line.of("warm", instance="registry-1")],
            counters=["joined_total"],
        ),
    }

    async def scenario() -> None:
        options = ("--rate", "300", "--lines", "AB", "--standby", "--gateways", "2")
        async with watched(tmp_path, *options) as (mesh, witness, session, checker):
            published = await _published_line(witness)
            ingestor = killed(
                published,
                Line.of("books change to the other line", before=published),
                closes=[Line.of("ingestor attached", ingestor=published)],
                counters=["line_changes_total"],
            )
            for instance, signs in {published: ingestor, **faults}.items():
                since = witness.now()
                os.kill(mesh.pid(instance), signal.SIGKILL)
                await seen(witness, since, f"{instance} killed", signs)
                if instance != "registry-1":  # replicas don't know each other; its line says that it is whole again
                    await back(mesh, instance)
                await _all_live(session, checker)

    run(scenario(), 110)


def test_a_registry_that_hangs_is_seen_to_be_lost_and_to_answer_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watched(tmp_path, "--registries", "2") as (mesh, witness, session, checker):
            since = witness.now()
            told = len(checker.statuses)
            pid = mesh.pid("registry-1")
            os.kill(pid, signal.SIGSTOP)
            try:
                lost = Signs(
                    opens=[Line.of("registry replica lost", instance="gateway-0")],
                    closes=(),
                    counters=(),
                    row=lambda row: row.instance == "registry-1" and row.state in ("silent", "gone"),
                )
                await seen(witness, since, "registry-1 hangs", lost)
            finally:
                os.kill(pid, signal.SIGCONT)
            found = Signs(
                opens=(),
                closes=[Line.of("registry replica up", instance="gateway-0")],
                counters=(),
                row=lambda row: row.instance == "registry-1" and row.state == "ready",
            )
            await seen(witness, since, "registry-1 answers again", found)
            await _all_live(session, checker)
            assert len(checker.statuses) == told, "clients notice nothing"

    run(scenario(), 110)


async def _published_line(witness: Witness) -> str:
    """The ingestor from which most books are published."""
    found: list[str] = []

    async def known() -> bool:
        rows = witness.rows(Mark(0, 0, {}), lambda row: row.published)
        found.extend(max(row.published, key=lambda name: row.published[name]) for row in rows[-1:])
        return bool(found)

    await wait_for(known, SIGNS_WITHIN_S, "a normalizer that says from which line it publishes")
    return found[-1]


async def _fault(mesh: LiveMesh, kind: str, **facts: object) -> None:
    await mesh.sim("control/fault?" + urlencode({"kind": kind, **facts}))


def test_trouble_with_the_venue_is_seen_to_begin_and_to_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watched(tmp_path, "--rate", "600") as (mesh, witness, session, checker):
            steps: dict[str, tuple[Callable[[], Awaitable[object]], Signs]] = {
                "the venue's connection dropped": (
                    lambda: _fault(mesh, "drop"),
                    Signs(
                        opens=[Line.of("venue connection down"), Line.of("venue connection lost")],
                        closes=[Line.of("venue subscribed"), Line.of("venue connection back")],
                        counters=["links_lost_total"],
                        row=lambda row: row.role == "ingestor" and row.links_lost,
                    ),
                ),
                "trades lost on the way": (
                    lambda: _fault(mesh, "lose", share=0.3, channels="matches", for_s=2),
                    Signs(
                        opens=[Line.of("trades are missing and fetched")],
                        closes=[Line.of("trades flow again")],
                        counters=["trade_gaps_total"],
                        row=lambda row: row.role == "normalizer" and "rest" in mended(row),
                    ),
                ),
                "a crossed book": (
                    lambda: _crossed(mesh, checker),
                    Signs(
                        opens=[Line.of("books lost", reason="the book was crossed")],
                        closes=[Line.of("books opened")],
                        counters=["books_lost_total.the book was crossed"],
                        row=lambda row: row.role == "normalizer" and ("resync" in mended(row) or row.open_gaps),
                    ),
                ),
                "REST down during a gap": (
                    lambda: _lost_without_rest(mesh),
                    Signs(
                        opens=[Line.of("the venue's REST API is down")],
                        closes=[Line.of("the venue's REST API answers again")],
                        counters=["rest_failures_total"],
                        row=lambda row: row.open_gaps or row.backfills,
                    ),
                ),
            }
            for what, (act, signs) in steps.items():
                since = witness.now()
                await act()
                await seen(witness, since, what, signs)
                await mesh.sim("control/faults/clear")
                await _all_live(session, checker)

    run(scenario(), 110)


async def _crossed(mesh: LiveMesh, checker: Checker) -> None:
    """A bid above the best ask: proof that the book is not what the exchange has."""
    product = next(key.product for key, _ in checker.streams())
    ticker = checker.ticker(product)
    assert ticker is not None
    assert ticker.best_ask is not None
    price = ticker.best_ask[0]
    update = (
        f'{{"type":"l2update","product_id":"{product}","time":"2030-01-01T00:00:00.000000Z",'
        f'"changes":[["buy","{price.replace(".", "9.", 1) if "." in price else price + "9"}","1.00000000"]]}}'
    )
    answer = await mesh.sim("control/inject?" + urlencode({"product": product, "text": update}))
    assert answer["sent_to"] == 1


async def _lost_without_rest(mesh: LiveMesh) -> None:
    """Trades are lost while REST answers 503; REST comes back before it is too late."""
    await _fault(mesh, "fail", for_s=4)
    await _fault(mesh, "lose", share=0.5, channels="matches", for_s=2)


async def _all_live(session: Session, checker: Checker) -> None:
    seen_so_far = checker.increments
    await session.until(
        lambda: (
            checker.increments > seen_so_far + 100
            and all(stream.status in ("", "live") for _, stream in checker.streams())
        ),
        SIGNS_WITHIN_S,
    )


def test_frames_lost_between_two_roles_are_seen_and_mended(tmp_path: Path) -> None:
    """A gateway that is stopped for a while: what its publisher could not keep for it is lost, and asked for."""

    async def scenario() -> None:
        # A full queue of a SUB is also where libzmq aborts if its own heartbeats end the link (issue 3937).
        small = {
            "LFMESH_NORMALIZER__PUBLISH_HWM_MESSAGES": "50",
            "LFMESH_GATEWAY__SUBSCRIBE_HWM_MESSAGES": "50",
        }
        async with watched(tmp_path, "--rate", "4000", "--products", "30", env=small) as (
            mesh,
            witness,
            session,
            checker,
        ):
            since = witness.now()
            pid = mesh.pid("gateway-0")
            os.kill(pid, signal.SIGSTOP)
            try:

                async def dropped() -> bool:
                    lost = witness.grown(since, "publish_dropped_total")
                    return lost > 0 or witness.grown(since, "published_total", "normalizer-0") > 5_000

                await wait_for(dropped, SIGNS_WITHIN_S, "the gateway's queue is full")
            finally:
                os.kill(pid, signal.SIGCONT)
            signs = Signs(
                opens=[Line.of("gap opened", instance="gateway-0")],
                closes=[Line.of("gap closed", instance="gateway-0")],
                counters=["recoveries_total"],
                row=lambda row: row.instance == "gateway-0" and row.gaps and mended(row),
            )
            await seen(witness, since, "frames lost on the way to the gateway", signs)
            await _all_live(session, checker)
            # It was silent while it was stopped; that is what happened to it, and all that may have.
            assert set(checker.violations.counts) <= {Kind.SILENCE}, checker.violations.first[:5]

    run(scenario(), 110)
