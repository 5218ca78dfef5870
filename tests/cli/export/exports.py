"""Runs an export as the command does."""

from pathlib import Path

from lfmesh.archive.reader import Archive
from lfmesh.cli.export.csv_files import CsvFormat
from lfmesh.cli.export.files import Output
from lfmesh.cli.export.run import Export, Exported, Format
from lfmesh.types import Channel, StreamKey


def exported(
    archive: Archive,
    folder: Path,
    form: Format | None = None,
    *,
    start: int | None = None,
    end: int | None = None,
    force: bool = False,
) -> dict[Channel, Exported]:
    """Everything that the archive has, as CSV unless a format is given; what was exported, by channel."""
    form = form or CsvFormat()
    streams = [StreamKey(product, channel) for product in archive.products() for channel in archive.channels(product)]
    with Output(folder, form.suffix, force=force) as output:
        done = Export(archive, form, output, start, end).run(streams, lambda _stream, _rows: None)
    return {table.channel: table for table in done}
