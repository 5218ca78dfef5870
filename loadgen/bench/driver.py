"""A mesh around one gateway: what plays its normalizer and snapshotter, paced by what the clients have got.

    with Neighbours(folder, counters, products) as mesh:      a process of its own
        … start a gateway with mesh.peers() as its static peers …
        mesh.saturate(slots, window=1024); …; mesh.rest()

It publishes packed frames as a normalizer does (one message a frame, as at moderate load, or several), sends a beacon
each 100 ms, and answers requests for snapshots. At saturation it is never more than a window of messages ahead of the
slowest client: then the gateway always has work, its turns are as large as it lets them be (512 frames), and neither
PUB nor SUB nor an outbox ever overflows. Products take turns. Nothing can be retransmitted: a gateway that asks for
that has lost a frame, and the benchmark fails.
"""

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from lfmesh.core import topics
from lfmesh.messages import Beacon, SnapshotReply, SnapshotRequest, StreamPosition, Unavailable, decode_request, encode
from lfmesh.types import NO_INPUT, Channel, InputPosition
from loadgen.bench.counters import Counters, Pace
from loadgen.bench.process import BenchmarkFailed, Worker
from loadgen.bench.ticks import EPOCH, FIRST_SEQ, INSTANCE, SHORT, TERM, Frames, state

WINDOW = 1024
"""Messages ahead of the slowest client: two of the gateway's turns, one under way and one waiting."""

_BEACON_S = 0.1
_FULL_EVERY = 10
_BURST = 256
_PAUSE_MS = 1
_HWM = 1_000_000
_INGESTOR = 1


class Plan(NamedTuple):
    """What to publish until told otherwise: at saturation (`slots` are the clients' in the counters), or at a `rate`.

    `every`: of so many published messages each client gets one. `each`: bytes of a message as a client gets it.
    """

    kind: str = SHORT
    per_frame: int = 1
    slots: slice = slice(0)
    each: int = 1
    every: int = 1
    window: int = WINDOW
    rate: float = 0.0


class Neighbours:
    """See the module's docstring. `folder` holds the sockets; `counters` are those of the audience."""

    def __init__(self, folder: Path, counters: Path, products: Sequence[str]) -> None:
        self._market_data, self._requests = f"ipc://{folder}/market-data", f"ipc://{folder}/requests"
        self._worker = Worker(_neighbours, self._market_data, self._requests, counters, tuple(products))
        self._worker.ask("hello")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._worker.pid

    def peers(self) -> list[dict[str, Any]]:
        """As `registry.static_peers`."""
        addresses = {"market_data": self._market_data, "requests": self._requests}
        return [
            {"role": "normalizer", "instance": "normalizer-0", "shard": 0, "endpoints": addresses},
            {
                "role": "snapshotter",
                "instance": "snapshotter-0",
                "shard": 0,
                "endpoints": {"requests": self._requests},
            },
        ]

    def start(self, plan: Plan) -> None:
        """Publish by this plan from now on."""
        self._worker.ask("publish", plan)

    def rest(self) -> int:
        """Publish no more; how many messages were published by the plan."""
        published: int = self._worker.ask("rest")
        return published

    def check(self) -> None:
        """BenchmarkFailed if the gateway has missed a frame."""
        asked = self._worker.ask("retransmissions")
        if asked:
            raise BenchmarkFailed(f"the gateway asked {asked} times for what it had lost")

    def end(self) -> None:
        """End its process."""
        self._worker.end()

    def __enter__(self) -> "Neighbours":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class _Publisher:
    """What is in the process: sockets, streams and the plan."""

    def __init__(self, market_data: str, requests: str, counters: Path, products: Sequence[str]) -> None:
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._publisher.setsockopt(zmq.SNDHWM, _HWM)
        self._publisher.bind(market_data)
        self.requests = self._context.socket(zmq.ROUTER)
        self.requests.bind(requests)
        self.retransmissions = 0
        self.published = 0
        self._counters = Counters(counters)
        self._positions = dict.fromkeys(products, FIRST_SEQ)
        self._beacons = 0
        self._beacon_at = 0.0
        self._plan: Plan | None = None
        self._frames: list[Frames] = []
        self._turn = 0
        self._pace: Pace | None = None
        self._began = 0.0

    def begin(self, plan: Plan) -> None:
        """Publish by this plan."""
        self.end()
        self._frames = [
            Frames(product, plan.kind, plan.per_frame, following=seq) for product, seq in self._positions.items()
        ]
        self._pace = None
        if not plan.rate:
            self._pace = Pace(self._counters.values[plan.slots], plan.each, plan.window, plan.every)
        self._turn, self.published, self._began = 0, 0, time.perf_counter()
        self._plan = plan

    def end(self) -> None:
        """Publish nothing."""
        self._note()
        self._plan, self._frames = None, []

    def work(self) -> int:
        """Do what is due; how long to wait for requests after it, in ms."""
        now = time.perf_counter()
        if now >= self._beacon_at:
            self._beacon_at = now + _BEACON_S
            self._beacon()
        if self._plan is None:
            return round(_BEACON_S * 1000)
        due = self._due(now, self._plan)
        if due > 0:
            self._publish(min(due, _BURST))
        return 0 if due > _BURST else _PAUSE_MS

    def answer(self) -> None:
        """Answer one request."""
        identity, number, payload = self.requests.recv_multipart()
        request = decode_request(payload)
        parts = [encode(Unavailable("nothing is retained"))]
        if not isinstance(request, SnapshotRequest):
            self.retransmissions += 1
        elif request.channel is Channel.TICKER and not request.at:
            self._note()
            seq = self._positions[request.product]
            header = SnapshotReply(request.product, request.channel, TERM, EPOCH, seq, time.time_ns(), NO_INPUT)
            parts = [encode(header), state().encode()]
        self.requests.send_multipart([identity, number, *parts])

    def close(self) -> None:
        """Let go of everything."""
        self._publisher.close(0)
        self.requests.close(0)
        self._context.term()

    def _due(self, now: float, plan: Plan) -> int:
        if self._pace is not None:
            return self._pace.room()
        return int((now - self._began) * plan.rate) - self.published

    def _publish(self, messages: int) -> None:
        send, frames, turn, many = self._publisher.send, self._frames, self._turn, len(self._frames)
        at, sent, count = time.time_ns(), 0, frames[0].count
        while sent < messages:
            send(frames[turn].next(at))
            turn = turn + 1 if turn + 1 < many else 0
            sent += count
        self._turn = turn
        self.published += sent
        if self._pace is not None:
            self._pace.sent += sent

    def _note(self) -> None:
        for frames in self._frames:
            self._positions[frames.product] = frames.seq

    def _beacon(self) -> None:
        self._note()
        full = self._beacons % _FULL_EVERY == 0
        self._beacons += 1
        positions = []
        if full or self._frames:
            positions = [
                StreamPosition(product, Channel.TICKER, EPOCH, seq) for product, seq in self._positions.items()
            ]
        source = InputPosition(_INGESTOR, 1, self._beacons)
        beacon = Beacon(0, TERM, INSTANCE, source, time.time_ns(), full, positions)
        self._publisher.send(topics.beacon(0) + b"\0" + encode(beacon))


def _neighbours(control: Connection, market_data: str, requests: str, counters: Path, products: Sequence[str]) -> None:
    publisher = _Publisher(market_data, requests, counters, products)
    poller = zmq.Poller()
    poller.register(control.fileno(), zmq.POLLIN)
    poller.register(publisher.requests, zmq.POLLIN)
    try:
        while True:
            for socket, _ in poller.poll(publisher.work()):
                if socket is publisher.requests:
                    publisher.answer()
                elif not _obey(control, publisher):
                    return
    finally:
        publisher.close()


def _obey(control: Connection, publisher: _Publisher) -> bool:
    """Carry out what is asked; False: nobody is there any more."""
    try:
        request, *arguments = control.recv()
    except (EOFError, ConnectionResetError):
        return False
    if request == "publish":
        publisher.begin(*arguments)
    elif request == "rest":
        publisher.end()
    control.send(publisher.retransmissions if request == "retransmissions" else publisher.published)
    return True
