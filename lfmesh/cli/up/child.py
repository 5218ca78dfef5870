"""What a forked process does: run one unit of the plan, and report what it is reached at, or why it ended."""

import asyncio
import os
import signal

from lfmesh.cli.crew import name_process, run_gateway
from lfmesh.cli.makers import import_services, maker
from lfmesh.cli.up.plan import Plan
from lfmesh.cli.up.unit import SIMULATOR, Changes, Unit
from lfmesh.cli.up.zygote import Report, Reporter, RunUnit, parent_pid
from lfmesh.errors import LfmeshError
from lfmesh.messages import ServiceRecord
from lfmesh.services.runtime import EXIT_FAILED, STOP_TIMEOUT_S, run_service
from lfmesh.types import Role

_PARENT_INTERVAL_S = 0.25
_CREW_STOP_TIMEOUT_S = 0.3
_LINE_CHARACTERS = 600
"""An error's line is cut here: a report must fit into one write, whatever JSON makes of it."""


def preload() -> None:
    """Import everything that a unit may need, in the zygote."""
    import_services()


def runner(plan: Plan) -> RunUnit:
    """What runs the units of this plan, each in a process of its own."""
    units = {unit.name: unit for unit in plan.units()}

    def run(name: str, changes: Changes, report: Reporter) -> int:
        unit = units[name]
        name_process(name)
        try:
            if unit.kind == SIMULATOR:
                return _simulate(plan, name, changes, report)
            return _serve(plan, unit, unit.kind, changes, report)
        except LfmeshError as error:
            report(Report("failed", name, os.getpid(), kind=type(error).__name__, line=str(error)[:_LINE_CHARACTERS]))
            return EXIT_FAILED

    return run


def _serve(plan: Plan, unit: Unit, role: Role, changes: Changes, report: Reporter) -> int:
    config = plan.config.override(unit.changes).override(changes)
    name, shard = unit.name, unit.shard

    def on_started(record: ServiceRecord) -> None:
        report(Report("started", name, os.getpid(), endpoints=record.endpoints, http=record.http))

    def on_failed(error: LfmeshError) -> None:
        report(Report("failed", name, os.getpid(), kind=type(error).__name__, line=str(error)[:_LINE_CHARACTERS]))

    parent = parent_pid()
    if role is Role.GATEWAY:
        # Its workers, if it has such, are killed before the supervisor's patience with it is over.
        stop_timeout_s = _CREW_STOP_TIMEOUT_S if config.gateway.workers > 1 else STOP_TIMEOUT_S
        return run_gateway(
            config, on_started=on_started, on_failed=on_failed, parent_pid=parent, stop_timeout_s=stop_timeout_s
        )
    return run_service(
        maker(role, shard), config, role, shard, on_started=on_started, on_failed=on_failed, parent_pid=parent
    )


def _simulate(plan: Plan, name: str, changes: Changes, report: Reporter) -> int:
    from dataclasses import replace

    from loadgen.sim import run

    assert plan.simulator is not None
    config = plan.simulator
    port = changes.get("simulator", {}).get("port")
    if isinstance(port, int):
        config = replace(config, port=port)

    def announce(ws_url: str, rest_url: str) -> None:
        report(Report("started", name, os.getpid(), endpoints={"ws": ws_url}, http=rest_url))

    async def simulate() -> None:
        watching = asyncio.create_task(_end_with(parent_pid()))
        try:
            await run(config, announce)
        finally:
            watching.cancel()

    asyncio.run(simulate())
    return 0


async def _end_with(parent: int) -> None:
    """End this process in order as soon as that one is no longer its parent; services have this from the runtime."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(_PARENT_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
