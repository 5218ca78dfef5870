"""`lfmesh state`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lfmesh.cli.options import config_option, data_dir_option, effective_config, option, parse_moment, parse_products
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from lfmesh.archive.reader import Archive
    from lfmesh.types import StreamKey

_NEWEST = (1 << 63) - 1
_LEVEL = re.compile(r"\[\s+([0-9.]+),\s+([0-9.]+)\s+\]")


@click.command(short_help="Print a book, ticker or the trades as of a moment.")
@click.argument("product")
@option("--channel", type=click.Choice(["ticker", "trades", "book"]), default="ticker", help="What of the product.")
@option(
    "--at", metavar="TIME", type=parse_moment, help="ISO 8601 with a zone, or ns since 1970.  [default: the newest]"
)
@option("--json", "as_json", is_flag=True, help="On one line also on a terminal.")
@data_dir_option
@config_option
def state(
    product: str, channel: str, at: int | None, as_json: bool, data_dir: Path | None, config_path: Path | None
) -> int:
    """Print the state of a product as of a moment, from the archive: the JSON of a snapshot's `data`.

    The moment is the venue's time. Everything up to it, and nothing later, is in the state; `epoch` and `seq` say where
    that is in the stream, `ts_snapshot` when its newest message was. Prices and sizes have the venue's digits. On a
    terminal the JSON is laid out for reading; into a pipe or file it is one line. Where messages before the moment may
    be missing in the archive, a warning on stderr says so.

    \b
      lfmesh state BTC-USD --channel book --at 2021-04-17T16:43:50Z
      lfmesh state BTC-USD --at 1618677830123456789 | jq .state.best_bid.px
    """
    from lfmesh.cli.archive import no_product, open_archive
    from lfmesh.core.times import format_time
    from lfmesh.types import Channel, StreamKey

    (wanted, *others) = parse_products(product)
    if others:
        raise click.UsageError("name one product")
    config = effective_config(config_path, {"mesh": {"data_dir": data_dir}} if data_dir else {})
    with open_archive(config) as archive:
        stream = StreamKey(wanted, Channel(channel))
        found = archive.state_at(stream, _NEWEST if at is None else at)
        if found is None:
            if not archive.channels(wanted):
                raise no_product(archive, config, wanted)
            raise _unknown(archive, stream, at)
    text = found.data().decode()
    click.echo(_laid_out(text) if sys.stdout.isatty() and not as_json else text)
    if at is not None and found.lack is not None:
        reached = format_time(found.lack.after)
        reach = f"a hole in the archive begins at {reached}" if found.lack.hole else f"the archive reaches to {reached}"
        what = f"what came between {reached} and {format_time(at)} is not in it"
        click.echo(f"warning: {reach}: {what}", err=True)
    return 0


def _unknown(archive: "Archive", stream: "StreamKey", at: int | None) -> LfmeshError:
    from lfmesh.core.times import format_time

    product, channel = stream
    bounds = archive.bounds(stream)
    if bounds is None:
        return LfmeshError(f"the archive has no {channel} of {product}; it has {', '.join(archive.channels(product))}")
    first, last = bounds
    reach = f"the archive has it from {format_time(first)} to {format_time(last)}"
    if at is None or at >= first:
        when = "" if at is None else f" at {format_time(at)}"
        return LfmeshError(f"the {channel} of {product} is not known{when}: messages before are missing; {reach}")
    return LfmeshError(f"nothing is known of the {channel} of {product} at {format_time(at)}; {reach}")


def _laid_out(text: str) -> str:
    """For reading: indented, a level of a book on one line. No digit is touched."""
    import msgspec

    return _LEVEL.sub(r"[\1, \2]", msgspec.json.format(text, indent=2))
