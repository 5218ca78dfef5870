"""A small service for the runtime's tests, in this process or in one of its own:

python -m tests.services.sample MODE CONFIG_JSON [PARENT_PID]

Prints the announced record as JSON on standard output once it has started.
"""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from lfmesh.config import Config
from lfmesh.errors import PortInUse, StoreUnavailable
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Context, Figures
from lfmesh.services.runtime import run_service
from lfmesh.transport import Publisher, Transport
from lfmesh.types import Role

ROOT = Path(__file__).parent.parent.parent


class SampleStatistics(msgspec.Struct, frozen=True):
    frames_total: Annotated[int, msgspec.Meta(description="Frames counted")]
    rejected_total: Annotated[
        dict[str, int], msgspec.Meta(description="Frames refused", extra_json_schema={"label": "reason"})
    ]
    lag_s: Annotated[float | None, msgspec.Meta(description="Lag, in seconds")]
    attached: Annotated[bool, msgspec.Meta(description="1 while attached")] = True


class SampleService:
    """Binds one socket, remembers what it is told, and misbehaves as `mode` says."""

    role = Role.SNAPSHOTTER

    def __init__(self, config: Config, context: Context, shard: int = 0, mode: str = "") -> None:
        self.config = config
        self.context = context
        self.shard: int | None = shard
        self.instance = f"snapshotter-{shard}"
        self.mode = mode
        self.views: list[Sequence[ServiceRecord]] = []
        self.reasons: list[str] = []
        self.stopped = 0
        self.rejected: Counter[str] = Counter({"garbled": 2, 'odd"\\\nname': 1})
        self.transport: Transport | None = None

    async def start(self) -> None:
        self.transport = Transport()
        self.socket = Publisher(self.transport, self.config.snapshotter.bind_requests, hwm=10)
        if self.mode == "refuse":
            raise PortInUse("tcp://127.0.0.1:1 is in use by another process; choose another port or stop that one")
        if self.mode == "crash at start":
            raise ZeroDivisionError("at start")
        if self.mode == "hang at start":
            self.context.log.info("hanging")
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
        if self.mode == "slow start":
            await asyncio.sleep(0.2)
        if self.mode == "fail in a task":
            self.context.spawn(self._fail(ZeroDivisionError("in a task")))
        if self.mode == "fail as told":
            self.context.spawn(self._fail(StoreUnavailable("the disk is full")))
        if self.mode == "fail in a callback":
            asyncio.get_running_loop().call_later(0.05, lambda: 1 // 0)
        self.context.spawn(self._idle())

    async def _fail(self, error: Exception) -> None:
        await asyncio.sleep(0.05)
        raise error

    async def _idle(self) -> None:
        await asyncio.Event().wait()

    def endpoints(self) -> dict[str, str]:
        return {"requests": self.socket.endpoint}

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        self.views.append(tuple(peers))

    def readiness(self) -> list[str]:
        return self.reasons

    def statistics(self) -> SampleStatistics:
        return SampleStatistics(frames_total=7, rejected_total=dict(self.rejected), lag_s=None)

    def figures(self) -> Figures:
        return Figures(messages_in_total=7, messages_out_total=6, queue_messages=1)

    async def stop(self) -> None:
        self.stopped += 1
        if self.mode == "hang at stop":
            await asyncio.sleep(3600)
        if self.mode == "block at stop":
            time.sleep(3600)  # noqa: ASYNC251 - that is the misbehaviour
        if self.mode == "crash at stop":
            raise ZeroDivisionError("at stop")
        if self.transport is not None:
            self.transport.close()
        self.context.log.info("sample stopped")


def show(record: ServiceRecord) -> None:
    sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
    sys.stdout.flush()


def main() -> int:
    mode, text, *rest = sys.argv[1:]
    config = Config.model_validate_json(text)
    return run_service(
        lambda config, context: SampleService(config, context, 0, mode),
        config,
        Role.SNAPSHOTTER,
        0,
        on_started=show,
        parent_pid=int(rest[0]) if rest else None,
        stop_timeout_s=1.0,
    )


if __name__ == "__main__":
    sys.exit(main())
