"""Goes through the archive, stream by stream, and writes its tables. Memory: a segment of the tape, a row group."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lfmesh.cli.export.files import Output, writing
from lfmesh.cli.export.rows import book_base, book_missing, rows_of
from lfmesh.cli.export.tables import Again, Row
from lfmesh.core.times import format_time
from lfmesh.types import CHANNELS, Channel, StreamKey

if TYPE_CHECKING:
    from lfmesh.archive.reader import Archive
    from lfmesh.archive.segments import Line

GROUP_ROWS = 65_536
"""About so many rows wait in memory until they are written: a row group of Parquet."""

_DAY_NS = 86_400_000_000_000


class TableFile(Protocol):
    """A file that is being written."""

    def write(self, rows: list[Row]) -> None:
        """Append rows; Again if the whole table has to be made anew."""

    def close(self) -> None:
        """Complete the file; closing twice is harmless."""


class Format(Protocol):
    """A kind of files."""

    suffix: str

    def begin(self, channel: Channel, existing: Sequence[Path]) -> None:
        """A table comes, of which these files are there already; LfmeshError where that does not go together."""

    def open(self, path: Path, stream: StreamKey, date: str) -> TableFile:
        """Begin the file of a stream and day."""


@dataclass(slots=True)
class Exported:
    """What was exported of one channel. `holes`: places where the archive lacks messages."""

    channel: Channel
    rows: int = 0
    files: int = 0
    holes: int = 0


class Export:
    """One export of an archive: lines of time `start` to `end` (ns, both inclusive; None: all of them)."""

    def __init__(
        self, archive: "Archive", form: Format, output: Output, start: int | None = None, end: int | None = None
    ) -> None:
        self._archive = archive
        self._form = form
        self._output = output
        self._start = start
        self._end = end

    def run(self, streams: Iterable[StreamKey], told: Callable[[StreamKey, int], None]) -> list[Exported]:
        """Write the tables of these streams and give them their names; what was exported, by channel.

        `told` is called with each stream that is done, and its rows. LfmeshError: a file that can't be written, what
        the archive raises. Then no file has come or changed.
        """
        wanted = list(streams)
        done = [
            self._table(channel, [stream for stream in wanted if stream.channel is channel], told)
            for channel in CHANNELS
        ]
        self._output.publish()
        return [table for table in done if table.rows]

    def _table(
        self, channel: Channel, streams: Sequence[StreamKey], told: Callable[[StreamKey, int], None]
    ) -> Exported:
        self._form.begin(channel, self._output.existing(channel) if streams else ())
        while True:
            table = Exported(channel)
            try:
                for stream in streams:
                    before = table.rows
                    self._stream(stream, table)
                    told(stream, table.rows - before)
            except Again:
                self._output.discard(channel)
                continue
            return table

    def _stream(self, stream: StreamKey, table: Exported) -> None:
        rows = rows_of(stream)
        previous: Line | None = None
        day = -1
        with closing(_DayFiles(stream, self._form, self._output)) as files:
            for line in self._archive.lines(stream, start_ts=self._start, end_ts=self._end):
                hole = previous is not None and _misses(previous, line)
                table.holes += hole
                if line.time // _DAY_NS > day:
                    day = line.time // _DAY_NS
                    files.begin(day)
                    if stream.channel is Channel.BOOK and not line.snapshot and not hole:
                        files.add(self._base(stream, day, line))
                if hole and stream.channel is Channel.BOOK and not line.snapshot:
                    files.add(book_missing(line))
                files.add(rows.of(line))
                previous = line
            files.flush()
        table.rows += files.rows
        table.files += files.files

    def _base(self, stream: StreamKey, day: int, first: "Line") -> list[Row]:
        """How the book stood before the first line of a file."""
        begin = max(self._start or 0, day * _DAY_NS)
        state = self._archive.state_at(stream, begin - 1)
        if state is None or state.position != (first.epoch, first.seq - 1):
            return book_missing(first)
        return book_base(state)


class _DayFiles:
    """The files of one stream, one after the other; a day without rows has none."""

    def __init__(self, stream: StreamKey, form: Format, output: Output) -> None:
        self.rows = 0
        self.files = 0
        self._stream = stream
        self._form = form
        self._output = output
        self._date = ""
        self._file: TableFile | None = None
        self._waiting: list[Row] = []

    def begin(self, day: int) -> None:
        """The rows of a day come; the file before is complete."""
        self.flush()
        self.close()
        self._date = format_time(day * _DAY_NS)[:10]

    def add(self, rows: list[Row]) -> None:
        """Append rows."""
        self._waiting += rows
        if len(self._waiting) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        with writing(self._output.folder):
            if self._file is None:
                draft = self._output.draft(self._stream, self._date)
                self._file = self._form.open(draft, self._stream, self._date)
                self.files += 1
            self._file.write(waiting)
        self.rows += len(waiting)

    def close(self) -> None:
        """Complete the file."""
        file, self._file = self._file, None
        if file is not None:
            with writing(self._output.folder):
                file.close()


def _misses(previous: "Line", line: "Line") -> bool:
    """Whether messages between these two are lacking."""
    if line.snapshot:
        return line.epoch == previous.epoch and line.seq > previous.seq
    return line.epoch != previous.epoch or line.seq != previous.seq + 1
