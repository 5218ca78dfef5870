"""`lfmesh replay --hash` from a local folder: messages per second from compressed segments to the state hash.

The archive is made first, and not measured: the exchange simulator's market through the normalizer's own pipeline, cut
into segments by the archive's own writer, put into the folder store.

    python -m loadgen.bench.replay [--messages 400000] [--products 50]

Beside it, in the same run: `msgspec` decoding the same messages to Python objects in one process, and nothing else.
"""

import tempfile
import time
from collections.abc import Iterator
from itertools import batched, islice
from typing import NamedTuple

import click
import msgspec

from lfmesh.archive.journal import Entry
from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import SegmentWriter, compressor
from lfmesh.cli.archive import open_archive
from lfmesh.cli.replay_hash import replay_hash
from lfmesh.config import Config
from lfmesh.core.codec import Flags, Header
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Turn
from lfmesh.core.product import Product
from lfmesh.store.opening import open_objects
from lfmesh.types import InputPosition, StreamKey, TradePosition
from lfmesh.venues.coinbase.parse import Ignored, VenueError, parse
from loadgen.bench.normalizer import model_feed
from loadgen.bench.table import Goal, Row, show

GOAL = Goal(200_000)
_TURN_RECORDS = 512
_STATUS = int(Flags.STATUS)
_PUBLISHED_A_MESSAGE = 1.14
_BASELINE_MESSAGES = 50_000


class Result(NamedTuple):
    """`rate` in messages per second of wall time; `decode_us` msgspec's processor time a message."""

    messages: int
    stored_bytes: int
    seconds: float
    jobs: int
    decode_us: float

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


def generate(config: Config, messages: int, products: int) -> int:
    """Fill the archive of a configuration with about so many messages; bytes that it takes."""
    writers: dict[StreamKey, SegmentWriter] = {}
    objects = open_objects(config)
    stored = 0
    for entry in _published(int(messages / _PUBLISHED_A_MESSAGE), products):
        writer = writers.get(entry.stream)
        if writer is None:
            zstd = compressor(config.archive.compression_level)  # one for writers that work at the same time is none
            writer = writers[entry.stream] = SegmentWriter(config.venue.name, entry.stream, zstd)
        for name, body in writer.add(entry):
            objects.put(name.key, body)
            stored += len(body)
    for writer in writers.values():
        for name, body in writer.close():
            objects.put(name.key, body)
            stored += len(body)
    return stored


def _published(count: int, products: int) -> Iterator[Entry]:
    """What a normalizer publishes of so many venue messages."""
    feed = model_feed(count, products)
    turn = Turn()
    now = time.time_ns()
    pipelines = {name: Product(name, turn, lambda _: None, Liveness(now, 1 << 62)) for name in feed.products}
    number = 0
    for frames in batched([*feed.opening, *feed.passes[0]], _TURN_RECORDS):
        now += 1_000_000
        turn.begin(now)
        turn.source(1, 1)
        for frame in frames:
            number += 1
            turn.record(number, now)
            event = parse(frame)
            if not isinstance(event, Ignored | VenueError):
                product = event.trade.product if isinstance(event, TradePosition) else event.product
                pipelines[product].observe(event)
        touched, turn.touched = turn.touched, []
        for outlet in touched:
            for run in outlet.take():
                if run.flags != _STATUS:
                    previous = run.previous or (0, 0)
                    header = Header(
                        run.flags, 1, 1, InputPosition(1, 1, number), run.epoch, run.first_seq, *previous,
                        run.ts_event, now,
                    )  # fmt: skip
                    yield Entry(outlet.stream, header, run.messages)


def measure(messages: int, products: int, jobs: int | None = None) -> Result:
    """Generate an archive in a folder that is removed afterwards, and time the hash of it."""
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        config = Config().override({"mesh": {"data_dir": folder}, "log": {"level": "error"}})
        stored = generate(config, messages, products)
        with open_archive(config) as archive:
            found = replay_hash(config, archive, archive.streams(), (None, None), jobs)
            return Result(found.messages, stored, found.seconds, found.jobs, _decode_us(archive))


def _decode_us(archive: Archive) -> float:
    """The baseline, in processor time: the first messages to Python objects, by the fastest decoder there is."""
    lines = (line.message for stream in archive.streams() for line in archive.lines(stream))
    texts = list(islice(lines, _BASELINE_MESSAGES))
    decode = msgspec.json.Decoder().decode
    began = time.process_time()
    for text in texts:
        decode(text)
    return (time.process_time() - began) / len(texts) * 1e6


def run(messages: int = 400_000, products: int = 50) -> list[Row]:
    """Rows for the table of all benchmarks."""
    found = measure(messages, products)
    return [
        Row(
            "replay",
            f"replay --hash, {products} products, {found.jobs} processes, local folder",
            found.rate,
            "messages/s",
            found.rate * found.decode_us / 1e6,
            f"msgspec decoding the same messages and nothing else, one process, {1e6 / found.decode_us:,.0f}/s",
            GOAL,
        ),
        Row(
            "replay.bytes",
            f"… {found.messages:,} messages, compressed, each",
            found.stored_bytes / found.messages,
            "bytes",
            better="less",
        ),
    ]


@click.command()
@click.option("--messages", default=400_000, show_default=True, help="About how many the archive holds.")
@click.option("--products", default=50, show_default=True, help="Products of the model.")
def main(messages: int, products: int) -> None:
    """Measure a replay of a local archive to its state hash."""
    show(run(messages, products))


if __name__ == "__main__":
    main()
