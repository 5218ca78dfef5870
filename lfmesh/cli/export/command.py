"""`lfmesh export`."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lfmesh.cli.options import (
    config_option,
    data_dir_option,
    effective_config,
    option,
    parse_channels,
    parse_moment,
    parse_products,
)
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from lfmesh.archive.reader import Archive
    from lfmesh.cli.export.run import Exported, Format
    from lfmesh.config import Config
    from lfmesh.types import Channel, StreamKey


@click.command(short_help="Write the archive to Parquet or CSV files.")
@option("--format", "form", type=click.Choice(["parquet", "csv"]), default="parquet", help="Of the files.")
@option("--out", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where to.")
@option("--from", "start", metavar="TIME", type=parse_moment, help="ISO 8601 with a zone, or ns.  [default: the first]")
@option("--to", "end", metavar="TIME", type=parse_moment, help="The same, inclusive.  [default: the last]")
@option("--products", metavar="LIST", type=parse_products, help="A comma list.  [default: all of the archive's]")
@option("--channels", metavar="LIST", type=parse_channels, help="A comma list.  [default: ticker,trades,book]")
@option("--force", is_flag=True, help="Replace files of an earlier export.")
@data_dir_option
@config_option
def export(**options: Any) -> int:  # noqa: ANN401 - the options above, by name
    """Write the archive to files for DuckDB, Polars, pandas and the like, one a product, channel and day (UTC).

    OUT/trades, OUT/ticker and OUT/book are tables: a row a trade, a tick, a level of a book that changed. Times are the
    venue's. Parquet has exact decimals, CSV the venue's digits. Files appear when all are written, or none does.

    \b
      lfmesh export --out day --from 2021-04-17T00:00Z --to 2021-04-18T00:00Z
      duckdb -c "SELECT product, count(*), sum(px * qty) FROM 'day/trades/**/*.parquet' GROUP BY ALL"
    """
    from lfmesh.cli.archive import open_archive
    from lfmesh.cli.export.files import Output
    from lfmesh.cli.export.run import Export

    start, end = options["start"], options["end"]
    if start is not None and end is not None and start > end:
        raise click.UsageError("--from is later than --to")
    data_dir = options["data_dir"]
    config = effective_config(options["config_path"], {"mesh": {"data_dir": data_dir}} if data_dir else {})
    form = _format(options["form"], config.venue.name)
    with open_archive(config) as archive:
        streams = _streams(archive, config, options["products"], options["channels"])
        with _terminable(), Output(options["out"], form.suffix, force=options["force"]) as output:
            done = Export(archive, form, output, start, end).run(streams, _tell)
        if not done:
            raise LfmeshError(f"nothing to export: {_why_nothing(archive, streams)}")
    for table in done:
        click.echo(_summary(options["out"], table))
    return 0


def _format(name: str, venue: str) -> "Format":
    if name == "csv":
        from lfmesh.cli.export.csv_files import CsvFormat

        return CsvFormat()
    try:
        from lfmesh.cli.export.parquet_files import ParquetFormat
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise LfmeshError(
            "Parquet needs pyarrow: `pip install pyarrow` (lfmesh's extra `parquet`); or --format csv"
        ) from error
    return ParquetFormat(venue)


def _streams(
    archive: "Archive", config: "Config", products: tuple[str, ...] | None, channels: "tuple[Channel, ...] | None"
) -> "list[StreamKey]":
    from lfmesh.cli.archive import no_product
    from lfmesh.types import StreamKey

    known = archive.products()
    unknown = [product for product in products or () if product not in known]
    if unknown or not known:
        raise no_product(archive, config, ", ".join(unknown))
    return [
        StreamKey(product, channel)
        for product in products or known
        for channel in archive.channels(product)
        if channels is None or channel in channels
    ]


def _why_nothing(archive: "Archive", streams: "list[StreamKey]") -> str:
    from lfmesh.core.times import format_time

    bounds = [found for found in map(archive.bounds, streams) if found is not None]
    if not bounds:
        return "the archive has none of these channels"
    first, last = (format_time(bound) for bound in (min(each[0] for each in bounds), max(each[1] for each in bounds)))
    return f"what the archive has of these is from {first} to {last}"


def _tell(stream: "StreamKey", rows: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"{stream.product} {stream.channel}: {rows:,} rows", err=True)


def _summary(out: Path, table: "Exported") -> str:
    files = f"{table.files:,} file{'' if table.files == 1 else 's'}"
    holes = f"; places where the archive lacks messages: {table.holes:,}" if table.holes else ""
    return f"{out / table.channel}: {table.rows:,} rows in {files}{holes}"


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: with unfinished files removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
