"""A context for services under test, and a normalizer that is real sockets around a model publisher."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog
from structlog.testing import LogCapture

from lfmesh.core import topics
from lfmesh.core.sharding import stable_id
from lfmesh.messages import (
    Rejected,
    Reply,
    RetransmitRequest,
    ServiceRecord,
    SnapshotRequest,
    Unavailable,
    decode_request,
    encode,
)
from lfmesh.ports import Context
from lfmesh.transport import Publisher, Responder, Server, Transport
from lfmesh.types import Role, StreamKey
from tests.core.model_publisher import ModelPublisher, ModelStream


class Supervisor:
    """What the runtime does: tasks are watched, log entries kept. `end` raises what a task has raised."""

    def __init__(self) -> None:
        self.log = LogCapture()
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    def context(self, clock: Callable[[], int] = time.time_ns) -> Context:
        logger = structlog.wrap_logger(
            None, processors=[self.log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        return Context(incarnation=1, clock=clock, log=logger, spawn=self.spawn)

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.done)

    def done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    def events(self, name: str) -> list[Any]:
        return [entry for entry in self.log.entries if entry["event"] == name]

    async def end(self) -> None:
        await asyncio.gather(*self.tasks)
        if self.failures:
            raise ExceptionGroup("tasks failed", [error for error in self.failures if isinstance(error, Exception)])


@asynccontextmanager
async def supervised() -> AsyncIterator[Supervisor]:
    """Exceptions in callbacks of the loop fail the test, as they stop a process."""
    supervisor = Supervisor()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: supervisor.failures.append(context.get("exception") or RuntimeError(context["message"]))
    )
    yield supervisor
    await supervisor.end()


class FakeNormalizer:
    """A shard's normalizer: what `model` publishes goes out unless it is to be lost; answers come from it too."""

    def __init__(
        self,
        transport: Transport,
        term: int,
        known: dict[StreamKey, ModelStream] | None = None,
        instance: str = "normalizer-0",
        shard: int = 0,
        incarnation: int = 1,
    ) -> None:
        self.model = ModelPublisher(shard, term, time.time_ns, known, stable_id(instance))
        self.asked: list[object] = []
        self.subscribed = 0
        self.deaf = False
        self.publisher = Publisher(transport, "tcp://127.0.0.1:0", hwm=10_000, on_subscription=self._on_subscription)
        self.server = Server(transport, "tcp://127.0.0.1:0", self._on_request)
        self._beacons: asyncio.TimerHandle | None = None
        self.record = ServiceRecord(
            Role.NORMALIZER,
            instance,
            incarnation,
            {"market_data": self.publisher.endpoint, "requests": self.server.endpoint},
            "0",
            1,
            "localhost",
            shard,
        )

    def start_beacons(self, interval_s: float = 0.1) -> None:
        self.beacon()
        loop = asyncio.get_running_loop()
        self._beacons = loop.call_later(interval_s, self.start_beacons, interval_s)

    def stop_beacons(self) -> None:
        if self._beacons is not None:
            self._beacons.cancel()

    def beacon(self) -> None:
        self.publisher.publish(self.model.beacon_frame())
        self.publisher.settle()

    def open(self, key: StreamKey) -> None:
        self.publisher.publish(self.model.open(key))

    def publish(self, key: StreamKey, numbers: list[int], *, lost: bool = False) -> None:
        frame = self.model.increment(key, numbers)
        if not lost:
            self.publisher.publish(frame)

    def close(self) -> None:
        self.stop_beacons()
        self.publisher.close()
        self.server.close()

    def _on_subscription(self, topic: bytes, subscribed: bool) -> None:
        if subscribed and topic == topics.beacon(self.model.shard):
            self.subscribed += 1

    def _on_request(self, payload: bytes, responder: Responder) -> None:
        request = decode_request(payload)
        self.asked.append(request)
        if self.deaf:
            return
        match request:
            case RetransmitRequest():
                found = self.model.retransmit_piece(request)
                if found is None:
                    responder.reply(encode(Unavailable("no longer retained")))
                else:
                    responder.reply(encode(Reply(more=found[1])), found[0])
            case SnapshotRequest():
                state = self.model.snapshot(StreamKey(request.product, request.channel))
                if state is None:
                    responder.reply(encode(Unavailable("no data yet")))
                else:
                    responder.reply(encode(state[0]), state[1])
            case _:
                responder.reply(encode(Rejected("not asked of a normalizer")))
