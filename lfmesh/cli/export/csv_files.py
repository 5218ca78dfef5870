"""CSV: a line a row, under a line of names. Decimals have the venue's digits, times nine digits of the fraction."""

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lfmesh.cli.export.tables import TABLES, Column, Kind, Row, Value
from lfmesh.core.times import format_time
from lfmesh.types import Channel, StreamKey

_NS = 1_000_000_000


class CsvFormat:
    """See `lfmesh.cli.export.run.Format`."""

    suffix = "csv"

    def begin(self, channel: Channel, existing: Sequence[Path]) -> None:
        """See `Format`: text has room for every digit."""

    def open(self, path: Path, stream: StreamKey, date: str) -> "CsvFile":  # noqa: ARG002 - the path tells it
        """See `Format`."""
        return CsvFile(path, TABLES[stream.channel])


class CsvFile:
    """A file that grows by rows; see `TableFile`. Null is empty."""

    def __init__(self, path: Path, columns: tuple[Column, ...]) -> None:
        self._file = path.open("w", encoding="ascii", newline="", buffering=1 << 20)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow([column.name for column in columns])
        self._times = sum(column.kind is Kind.TIME for column in columns)
        assert all(column.kind is Kind.TIME for column in columns[: self._times])

    def write(self, rows: list[Row]) -> None:
        """Append rows."""
        times = self._times
        self._writer.writerows((*map(_time_text, row[:times]), *row[times:]) for row in rows)

    def close(self) -> None:
        """Complete the file; closing twice is harmless."""
        self._file.close()


def _time_text(ns: Value) -> str | None:
    """As `format_time` has it, but for the second, which is that of most rows before."""
    if not isinstance(ns, int):
        return None
    second, fraction = divmod(ns, _NS)
    return f"{_second_text(second)}.{fraction:09d}Z"


@lru_cache(maxsize=1024)
def _second_text(second: int) -> str:
    return format_time(second * _NS).partition(".")[0]
