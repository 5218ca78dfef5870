"""`lfmesh record`: the venue's frames as they come, into a tape that the simulator plays."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import batched
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, get_args

import click

from lfmesh.cli.options import config_option, effective_config, log_changes, log_options, option, parse_products
from lfmesh.core import rawtape
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from lfmesh.config import Config
    from lfmesh.venues.coinbase.connection import FeedConnection
    from lfmesh.venues.coinbase.protocol import Stray

FLUSH_BYTES = 1024 * 1024
FLUSH_INTERVAL_S = 0.5
"""What waits is written when it is this much, or has waited this long: what a killed recorder loses."""

_TOLD_EVERY_S = 60.0


def parse_venue_channels(text: str) -> tuple[str, ...]:
    """Option type: a comma list of the venue's channels, each once."""
    from lfmesh.config import VenueChannel

    known = get_args(VenueChannel)
    channels = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for channel in channels:
        if channel not in known:
            raise click.BadParameter(f"{channel!r} is no channel of the venue's: {', '.join(known)}")
    if not channels:
        raise click.BadParameter(f"name at least one channel: {', '.join(known)}")
    return channels


@click.command(short_help="Record the venue's frames to a tape.")
@option("--out", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The tape to write.")
@option("--products", metavar="LIST", type=parse_products, help="A comma list.  [default: mesh.products]")
@option(
    "--channels",
    metavar="LIST",
    type=parse_venue_channels,
    help="A comma list of the venue's channels.  [default: venue.channels]",
)
@option(
    "--duration",
    "duration_s",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so many seconds.  [default: at Ctrl-C]",
)
@option("--force", is_flag=True, help="Overwrite a file that exists, once the first frame has come.")
@config_option
@log_options
def record(**options: Any) -> int:  # noqa: ANN401 - the options above, by name
    """Record the venue's frames, as they come, to a tape that `lfmesh up --source tape:FILE` plays.

    It connects as an ingestor does (section [venue] of the configuration) and needs no mesh. A lost connection is made
    again, and said so on standard error. Ctrl-C or SIGTERM ends it with everything written.

    \b
      lfmesh record --out monday.tape --products BTC-USD,ETH-USD --duration 3600
      lfmesh up --source tape:monday.tape --speed 10
    """
    keys = {"mesh": {"products": options["products"]}, "venue": {"channels": options["channels"]}}
    changes = {section: named for section, named in keys.items() if None not in named.values()}
    config = effective_config(options["config_path"], changes, log_changes(options["log_format"], options["log_level"]))
    tape = TapeFile(options["out"], force=options["force"])
    try:
        return asyncio.run(_run(config, tape, options["duration_s"]))
    finally:
        tape.close()


async def _run(config: "Config", tape: "TapeFile", duration_s: float | None) -> int:
    from lfmesh.cli.interrupts import stop_event
    from lfmesh.observe.log import logger

    recorder = Recorder(config, tape, logger(config.log, role="record", instance="record"))
    with stop_event() as stop:
        await recorder.run(stop, duration_s)
    click.echo(recorder.summary())
    return 0


class TapeFile:
    """A growing tape: lines wait in memory until `flush`, so that whole ones are written at once.

    LfmeshError if it can't be opened: it exists and `force` is not given, no such folder. An old file goes when the
    first lines come, a new one in which nothing was written goes at the end.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self.path = path
        self.written = 0
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0
        self._is_new = not path.exists()
        if not self._is_new and not force:
            raise LfmeshError(f"{path} exists: --force overwrites it")
        try:
            self._file = path.open("xb" if self._is_new else "r+b", buffering=0)
        except OSError as error:
            raise LfmeshError(f"{path} cannot be written: {error.strerror or error}") from error

    def add(self, line: bytes) -> None:
        """Take a line for the next `flush`."""
        self._waiting.append(line)
        self.waiting_bytes += len(line)

    def flush(self) -> None:
        """Write what waits. LfmeshError when that is impossible: what was written ends with a whole line, then."""
        lines, self._waiting, self.waiting_bytes = self._waiting, [], 0
        left = memoryview(b"".join(lines))
        if not left:
            return
        try:
            if not self.written:
                self._file.truncate(0)
            size = len(left)
            while left:
                left = left[self._file.write(left) or 0 :]
            self.written += size
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self.written)
            raise LfmeshError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close; a new file that holds nothing is removed. Closing twice is harmless."""
        if self._file.closed:
            return
        if self.written:
            with suppress(OSError):  # a pipe or the like has nothing to sync
                os.fsync(self._file.fileno())
        self._file.close()
        if self._is_new and not self.written:
            self.path.unlink(missing_ok=True)


class Recorder:
    """Writes down what all connections receive, in order, until told to stop.

    It is lane and owner of its connections (`lfmesh.venues.coinbase.connection`). `clock` is replaced in tests.
    """

    def __init__(
        self,
        config: "Config",
        tape: TapeFile,
        log: "FilteringBoundLogger",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.frames = 0
        self.empty = 0
        self._config = config
        self._tape = tape
        self._log = log
        self._clock = clock
        self._connections: list[FeedConnection] = []
        self._read_at = self._newest = 0
        self._strayed = b""
        self._market_frames = 0
        self._problems: list[str] = []
        self._lost = 0
        self._lasted_s = 0.0
        self._full = asyncio.Event()

    async def run(self, stop: asyncio.Event, duration_s: float | None = None) -> None:
        """Until `stop` is set or the time is over. LfmeshError if the file can't be written, or nothing came."""
        began = time.monotonic()
        self._connect()
        failures: list[LfmeshError] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(connection.run()) for connection in self._connections]
                tasks.append(group.create_task(self._write(stop, failures)))
                with suppress(TimeoutError):
                    async with asyncio.timeout(duration_s):
                        await stop.wait()
                self._lost = sum(each.counters.losses for each in self._connections)  # without what we end ourselves
                self._problems = [problem for each in self._connections for problem in each.problems()]
                for task in tasks:
                    task.cancel()
        finally:
            self._lasted_s = time.monotonic() - began
        if failures:
            raise LfmeshError(f"{failures[0]}; {_counted(self.frames, 'frame')} came") from failures[0]
        if not self._market_frames:
            why = "; ".join(self._problems) or "the venue sent no market data"
            raise LfmeshError(f"nothing was recorded: {why}")
        self._tape.flush()

    def summary(self) -> str:
        """What was recorded, in one line (and one for each thing that is amiss)."""
        what = f"{_counted(self.frames, 'frame')} of {_counted(len(self._products), 'product')}"
        parts = [f"{self._tape.path}: {what} in {self._lasted_s:.1f} s, {self._tape.written / 1e6:.1f} MB"]
        if self._lost:
            parts.append(f"connections lost: {self._lost}")
        if self.empty:
            parts.append(f"empty frames left out: {self.empty}")
        return "; ".join(parts) + "".join(f"\nat the end: {problem}" for problem in self._problems)

    # What connections tell ----------------------------------------------------------------------------------------

    def add(self, ts_ingest: int, frame: bytes) -> None:
        """A frame; see `Lane`. What nobody can read is told of as `strayed` first, and then comes here as well."""
        if frame is self._strayed:
            return
        self._market_frames += 1
        self._take(ts_ingest, frame)

    def strayed(self, connection: int, why: "Stray", frame: bytes) -> None:  # noqa: ARG002 - the signature is FeedOwner's
        """A frame without a product of ours belongs on the tape, too; see `FeedOwner`."""
        self._strayed = frame
        self._take(self._read_at, frame)

    def link_up(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        """The connection has logged it; see `FeedOwner`."""

    def link_down(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        """The connection has logged it; see `FeedOwner`."""

    # Inside -------------------------------------------------------------------------------------------------------

    @property
    def _products(self) -> tuple[str, ...]:
        return self._config.mesh.products

    def _connect(self) -> None:
        from lfmesh.venues.coinbase.connection import FeedConnection, ws_schedule

        venue = self._config.venue
        schedule = ws_schedule(venue)
        self._connections = [
            FeedConnection(
                number,
                {product.encode(): self for product in share},
                venue,
                self,
                schedule=schedule,
                clock=self._now,
                random=SystemRandom().random,
                log=self._log,
            )
            for number, share in enumerate(batched(self._products, venue.products_per_connection))
        ]

    def _now(self) -> int:
        self._read_at = self._clock()
        return self._read_at

    def _take(self, received: int, frame: bytes) -> None:
        if not frame:
            self.empty += 1
            return
        # A frame that came in pieces over a while has the time of its first; on the tape times never go back.
        self._newest = max(self._newest, received)
        self._tape.add(rawtape.line(self._newest, rawtape.without_newlines(frame)))
        self.frames += 1
        if self._tape.waiting_bytes >= FLUSH_BYTES:
            self._full.set()

    async def _write(self, stop: asyncio.Event, failures: list[LfmeshError]) -> None:
        told_at = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_INTERVAL_S):
                    await self._full.wait()
            self._full.clear()
            try:
                if self._market_frames:  # before there is any, there is no tape
                    self._tape.flush()
            except LfmeshError as error:
                failures.append(error)
                stop.set()
                return
            if time.monotonic() - told_at >= _TOLD_EVERY_S:
                told_at = time.monotonic()
                self._log.info("recording", frames=self.frames, mb=round(self._tape.written / 1e6, 1))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
