"""The normalizer at saturation: venue messages per second from the PULL socket to the XPUB socket, in one process.

The real process is started as `lfmesh normalizer` starts it. This process plays the ingestor, which pushes as fast as
it is let (batches of 512 records, made ahead), and one consumer, which checks that every number comes. Measured is
from the first batch after the book snapshots to the last market-data frame.

    python -m loadgen.bench.normalizer [--seconds 5] [--products 50] [--tape FILE]

Beside it, in the same run: `msgspec` decoding the same frames to Python objects, and nothing else.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import batched, islice
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import zmq

from lfmesh import messages
from lfmesh.config import Config
from lfmesh.core import topics
from lfmesh.core.codec import Flags, RawHeader, RawKind, RawRecord, RecordKind, pack_raw, split_topic, unpack
from lfmesh.core.sharding import stable_id
from lfmesh.messages import ServiceRecord
from lfmesh.types import Position, Role
from loadgen import tape as tapes
from loadgen.bench.process import cpu_seconds
from loadgen.bench.table import Goal, Row, show
from loadgen.sim.catalog import products as model_products
from loadgen.sim.digits import IsoTimes
from loadgen.sim.frames import InstrumentFrames, heartbeat_frame, snapshot_frame
from loadgen.sim.market import BookChange, Market, Match

INGESTOR = "ingestor-bench"
BATCH_RECORDS = 512
GOAL = Goal(60_000)

_RATE_GUESS = 100_000
_BOOK_LEVELS = 250
_HEARTBEAT_EVERY = 1000
_BASELINE_ROUNDS = 3
_QUEUED_BATCHES = 50
_DEADLINE_S = 60.0
_STEP_US = 10


class Feed(NamedTuple):
    """What is pushed: `opening` is not measured. Each pass is one incarnation of the ingestor."""

    products: tuple[str, ...]
    opening: list[bytes]
    passes: list[list[bytes]]


class Result(NamedTuple):
    """`cpu_us` is the normalizer's processor time a venue message, `decode_us` msgspec's alone for the same ones."""

    venue_messages: int
    published: int
    frames: int
    seconds: float
    cpu_us: float
    decode_us: float

    @property
    def rate(self) -> float:
        """Venue messages per second."""
        return self.venue_messages / self.seconds


def model_feed(count: int, products: int, seed: int = 1) -> Feed:
    """`count` messages of the exchange simulator's market: l2updates, matches, tickers, heartbeats."""
    names = model_products(products)
    market = Market(names, seed, _BOOK_LEVELS)
    times = IsoTimes()
    start_us = time.time_ns() // 1000
    writers = {instrument: InstrumentFrames(instrument) for instrument in market.instruments}
    opening = []
    for instrument, writer in writers.items():
        bids, asks = writer.levels(instrument.bids.levels()), writer.levels(instrument.asks.levels())
        opening.append(snapshot_frame(instrument.spec.id, bids, asks))
        if instrument.last is not None:
            opening.append(writer.match(instrument.last, times.text(start_us), "last_match"))
    sent = []
    for number, message in enumerate(islice(market.messages(), count)):
        at, writer = times.text(start_us + number * _STEP_US), writers[message.instrument]
        match message:
            case BookChange():
                sent.append(writer.change(message, at))
            case Match():
                sent.append(writer.match(message.fill, at))
            case _:
                sent.append(writer.ticker(message.fill, at))
        if number % _HEARTBEAT_EVERY == 0:
            spec, sequence = message.instrument.spec, message.instrument.sequence
            sent.append(heartbeat_frame(spec.id, sequence, message.instrument.trade_id, at))
    return Feed(names, opening, [sent])


def tape_feed(path: Path, count: int) -> Feed:
    """A recorded tape, over and over until `count` messages; each pass is a new connection's."""
    frames = [frame for _, frame in tapes.read(path)]
    return Feed(tapes.products(path), [], [frames] * max(1, -(-count // len(frames))))


def run(seconds: float = 5.0, products: int = 50, tape: Path | None = None) -> list[Row]:
    """Measure for about `seconds` at the budget's rate; rows for the table of all benchmarks."""
    count = int(seconds * _RATE_GUESS)
    feed = model_feed(count, products) if tape is None else tape_feed(tape, count)
    part = "" if tape is None else ".tape"
    what = f"{products} products" if tape is None else f"tape {tape.name}"
    found = measure(feed)
    return [
        Row(
            f"normalizer{part}",
            f"normalizer, PULL to XPUB, {what}",
            found.rate,
            "venue messages/s",
            goal=GOAL,
            note=f"{found.published:,} messages published in {found.frames:,} frames",
        ),
        Row(
            f"normalizer{part}.cpu",
            "… its processor time a venue message",
            found.cpu_us,
            "µs",
            found.cpu_us / found.decode_us,
            f"msgspec decoding the same frames and nothing else, {found.decode_us:.2f} µs",
            better="less",
        ),
    ]


def measure(feed: Feed) -> Result:
    """Run the feed through a real normalizer process; RuntimeError if anything was lost on the way."""
    with _normalizer(feed.products) as (process, endpoints), _sockets(endpoints) as (push, subscriber):
        consumer = _Consumer(subscriber)
        opening, *measured = _batches(feed)
        if feed.opening:
            _drive(push, consumer, [opening])
        cpu_before, published, frames = cpu_seconds(process.pid), consumer.published, consumer.frames
        began = time.perf_counter()
        _drive(push, consumer, measured)
        seconds = consumer.newest_at - began
        cpu = cpu_seconds(process.pid) - cpu_before
    count = sum(map(len, feed.passes))
    if consumer.faults:
        raise RuntimeError(f"the normalizer's output has holes: {consumer.faults[:3]}")
    return Result(
        count, consumer.published - published, consumer.frames - frames, seconds, cpu / count * 1e6, _decode_us(feed)
    )


def _decode_us(feed: Feed) -> float:
    """The baseline, in processor time: each frame to Python objects, by the fastest decoder there is."""
    decode = msgspec.json.Decoder().decode
    frames = feed.passes[0]
    best = float("inf")
    for _ in range(_BASELINE_ROUNDS):
        began = time.process_time()
        for frame in frames:
            decode(frame)
        best = min(best, time.process_time() - began)
    return best / len(frames) * 1e6


# The ingestor's part --------------------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    incarnation: int
    last_number: int
    frames: list[bytes]


def _batches(feed: Feed) -> Iterator[_Pass]:
    """The opening, and each pass, packed as an ingestor packs them; numbers go on where incarnations do."""
    yield _packed(1, 1, feed.opening)
    first, incarnation = (len(feed.opening) + 1, 1) if feed.opening else (1, 2)
    for frames in feed.passes:
        yield _packed(incarnation, first, frames)
        first, incarnation = 1, incarnation + 1


def _packed(incarnation: int, first: int, frames: Iterable[bytes]) -> _Pass:
    packed = []
    for records in batched(frames, BATCH_RECORDS):
        header = RawHeader(RawKind.BATCH, "A", 0, stable_id(INGESTOR), incarnation, first, 1, time.time_ns())
        packed.append(pack_raw(header, [RawRecord(RecordKind.FRAME, time.time_ns(), frame) for frame in records]))
        first += len(records)
    return _Pass(incarnation, first - 1, packed)


def _drive(push: "zmq.Socket[bytes]", consumer: "_Consumer", passes: Iterable[_Pass]) -> None:
    """Push as fast as it goes, reading what comes out meanwhile, until a beacon says that all of it went through."""
    deadline = time.perf_counter() + _DEADLINE_S
    goal = (0, 0)
    for incarnation, last_number, frames in passes:
        goal = (incarnation, last_number)
        for frame in frames:
            consumer.drain()
            while not push.poll(0, zmq.POLLOUT):
                _wait(consumer, deadline, push)
            push.send(frame, copy=False)
    while consumer.reached < goal:
        _wait(consumer, deadline)
        consumer.drain()


def _wait(consumer: "_Consumer", deadline: float, push: "zmq.Socket[bytes] | None" = None) -> None:
    """Wait until there is something to read, or room to push."""
    if time.perf_counter() > deadline:
        raise RuntimeError(f"the normalizer came to a stop at {consumer.reached} (incarnation, number)")
    poller = zmq.Poller()
    poller.register(consumer.socket, zmq.POLLIN)
    if push is not None:
        poller.register(push, zmq.POLLOUT)
    poller.poll(100)
    consumer.drain()


# The consumer's part --------------------------------------------------------------------------------------------------


class _Consumer:
    """Reads everything, checks that each stream's numbers follow each other, and knows how far the input went."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self.socket = socket
        self.published = 0
        self.frames = 0
        self.newest_at = 0.0
        self.reached = (0, 0)
        self.faults: list[str] = []
        self._positions: dict[bytes, Position] = {}
        self._beacon = topics.beacon(0)

    def drain(self) -> None:
        """Read what is there."""
        try:
            while True:
                self._read(self.socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass

    def _read(self, raw: bytes) -> None:
        topic, offset = split_topic(raw)
        if topic == self._beacon:
            beacon = messages.decode_beacon(raw[offset:])
            self.reached = beacon.input.incarnation, beacon.input.number
            return
        self.newest_at = time.perf_counter()
        header, texts = unpack(raw)[1:]
        if header.flags & Flags.STATUS:
            return
        self.frames += 1
        self.published += len(texts)
        if header.flags & Flags.SNAPSHOT:
            self._positions[topic] = Position(header.epoch, 0)
            return
        if (header.epoch, header.first_seq - 1) != self._positions.get(topic):
            self.faults.append(f"{topic.decode()} after {self._positions.get(topic)}: {header.first_seq}")
        self._positions[topic] = Position(header.epoch, header.first_seq + len(texts) - 1)


# The process ----------------------------------------------------------------------------------------------------------


@contextmanager
def _normalizer(products: tuple[str, ...]) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        config = Config().override(
            {
                "mesh": {"products": products, "shards": 1, "data_dir": folder},
                # No registry: a peer that nothing will be asked of. HWMs so high that nothing is ever dropped.
                "registry": {
                    "static_peers": [
                        {"role": "ingestor", "instance": INGESTOR, "endpoints": {"requests": "tcp://127.0.0.1:1"}}
                    ]
                },
                "normalizer": {
                    "restore_timeout_s": 0.0,
                    "stale_after_s": 3600.0,
                    "raw_hwm_messages": _QUEUED_BATCHES,
                    "publish_hwm_messages": 10_000_000,
                },
                "log": {"level": "error"},
            }
        )
        command = [sys.executable, "-m", "loadgen.bench.normalizer", "--serve", config.model_dump_json()]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
        try:
            assert process.stdout is not None
            yield process, msgspec.json.decode(process.stdout.readline(), type=dict[str, str])
        finally:
            process.terminate()
            process.communicate()


def _serve(config_json: str) -> None:
    from lfmesh.services.normalizer import NormalizerService
    from lfmesh.services.runtime import run_service

    def tell(record: ServiceRecord) -> None:
        sys.stdout.write(msgspec.json.encode(record.endpoints).decode() + "\n")
        sys.stdout.flush()

    config = Config.model_validate_json(config_json)
    sys.exit(
        run_service(
            lambda config, context: NormalizerService(config, context, 0), config, Role.NORMALIZER, 0, on_started=tell
        )
    )


@contextmanager
def _sockets(endpoints: dict[str, str]) -> Iterator[tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]]:
    """PUSH to the raw socket, SUB to the market data, connected."""
    context = zmq.Context()
    push, subscriber = context.socket(zmq.PUSH), context.socket(zmq.SUB)
    try:
        push.setsockopt(zmq.SNDHWM, _QUEUED_BATCHES)
        subscriber.setsockopt(zmq.RCVHWM, 10_000_000)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.connect(endpoints["market_data"])
        if not subscriber.poll(int(_DEADLINE_S * 1000)):
            raise RuntimeError("the normalizer sends no beacons")
        push.connect(endpoints["raw"])
        yield push, subscriber
    finally:
        push.close(0)
        subscriber.close(0)
        context.term()


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="About how long to measure.")
@click.option("--products", default=50, show_default=True, help="Products of the model.")
@click.option("--tape", type=click.Path(exists=True, path_type=Path), help="Play this tape instead of the model.")
@click.option("--serve", metavar="JSON", hidden=True, help="Be the normalizer.")
def main(seconds: float, products: int, tape: Path | None, serve: str | None) -> None:
    """Measure the normalizer at saturation, from socket to socket."""
    if serve is not None:
        _serve(serve)
    show(run(seconds, products, tape))


if __name__ == "__main__":
    main()
