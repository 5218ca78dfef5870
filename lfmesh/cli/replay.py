"""`lfmesh replay`."""

import sys
from collections.abc import Sequence
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
    parse_speed,
)
from lfmesh.errors import LfmeshError

if TYPE_CHECKING:
    from lfmesh.archive.reader import Archive
    from lfmesh.config import Config
    from lfmesh.types import Channel, Position, StreamKey


@click.command(short_help="Play the archive: to standard output, to clients, or to a hash.")
@option("--from", "start", metavar="TIME", type=parse_moment, help="ISO 8601 with a zone, or ns.  [default: the first]")
@option("--to", "end", metavar="TIME", type=parse_moment, help="The same, inclusive.  [default: the last]")
@option("--products", metavar="LIST", type=parse_products, help="A comma list.  [default: all of the archive's]")
@option("--channels", metavar="LIST", type=parse_channels, help="A comma list.  [default: ticker,trades,book]")
@option("--speed", metavar="N", type=parse_speed, default="1", help="Times the venue's own, or `max`.")
@option("--skip-pauses", "skip_s", metavar="S", type=click.FloatRange(min=0), help="Wait at most so long, in its time.")
@option("--with-state", is_flag=True, help="Begin each stream with a snapshot: its state as of --from.")
@option("--hash", "as_hash", is_flag=True, help="Print only the hash of the state at the end, and counts.")
@option("--jobs", metavar="N", type=click.IntRange(1, 256), help="Processes of --hash.  [default: one a core]")
@option("--serve", "port", metavar="PORT", type=click.IntRange(0, 65535), help="Play it to WebSocket clients instead.")
@option("--host", metavar="HOST", default="127.0.0.1", help="Where --serve listens.")
@option(
    "--begin",
    type=click.Choice(["client", "now"]),
    default="client",
    help="--serve: with the first client, or at once.",
)
@option("--loop", is_flag=True, help="--serve: begin again after the end.")
@data_dir_option
@config_option
def replay(**options: Any) -> int:  # noqa: ANN401 - the options above, by name
    """Play what the mesh has archived, in the order and the rhythm in which it happened.

    To standard output: the messages exactly as clients got them, one a line, all streams in the order of the venue's
    time; with `--speed max` as fast as they are read. After --from a stream begins in its midst: --with-state puts a
    snapshot before that.

    --hash plays as fast as it goes and prints one hash over books, tickers and all trades at the end: equal hashes mean
    equal states, digit for digit, and equal to what clients of the live run held.

    --serve PORT plays to clients, in the client protocol; they can pause, seek and change the speed.

    \b
      lfmesh replay --from 2021-04-17T16:43:50Z --to 2021-04-17T16:44:50Z --products BTC-USD
      lfmesh replay --speed max --channels trades | jq -c .data.fields
      lfmesh replay --hash
      lfmesh replay --serve 8001 --speed 10
    """
    start, end = options["start"], options["end"]
    _check(options)
    data_dir: Path | None = options["data_dir"]
    config = effective_config(options["config_path"], {"mesh": {"data_dir": data_dir}} if data_dir else {})
    from lfmesh.cli.archive import open_archive

    with open_archive(config) as archive:
        streams = _streams(archive, config, options["products"], options["channels"])
        if end is None and options["port"] is None:  # else a mesh that runs would be followed for ever
            end = options["end"] = max((found[1] for found in map(archive.bounds, streams) if found), default=None)
        if options["as_hash"]:
            return _hash(config, archive, streams, (start, end), options["jobs"])
        if options["port"] is not None:
            return _serve(config, archive, options)
        try:
            _write(archive, streams, options)
        except BrokenPipeError:  # whoever reads has read enough
            from lfmesh.cli.interrupts import discard_output

            discard_output()
    return 0


def _check(options: dict[str, Any]) -> None:
    """What does not go together."""
    start, end = options["start"], options["end"]
    if start is not None and end is not None and start > end:
        raise click.UsageError("--from is later than --to")
    if options["as_hash"] and options["port"] is not None:
        raise click.UsageError("--hash and --serve are two different things")
    if options["with_state"] and start is None:
        raise click.UsageError(
            "--with-state needs --from: from the first on, streams begin with their snapshots anyway"
        )


def _streams(
    archive: "Archive", config: "Config", products: tuple[str, ...] | None, channels: "tuple[Channel, ...] | None"
) -> "list[StreamKey]":
    from lfmesh.cli.archive import no_product

    streams = archive.streams()
    held = {stream.product for stream in streams}
    for product in products or ([] if held else ["product"]):
        if product not in held:
            raise no_product(archive, config, product)
    return [
        stream
        for stream in streams
        if (products is None or stream.product in products) and (channels is None or stream.channel in channels)
    ]


def _nothing(archive: "Archive", streams: "Sequence[StreamKey]") -> LfmeshError:
    from lfmesh.core.times import format_time

    bounds = [found for found in map(archive.bounds, streams) if found is not None]
    if not bounds:
        return LfmeshError("nothing to replay: the archive has none of these channels")
    first, last = min(found[0] for found in bounds), max(found[1] for found in bounds)
    return LfmeshError(
        f"nothing to replay: what the archive has of these is from {format_time(first)} to {format_time(last)}"
    )


# To standard output ---------------------------------------------------------------------------------------------------


def _write(archive: "Archive", streams: "Sequence[StreamKey]", options: dict[str, Any]) -> None:
    from lfmesh.archive.history import history
    from lfmesh.cli.replay_output import paced, write

    output, start = sys.stdout.buffer, options["start"]
    after: dict[StreamKey, Position] = {}
    if options["with_state"]:
        for stream in streams:
            state = archive.state_at(stream, start - 1)
            if state is not None:
                after[stream] = state.position
                write(output, state.messages())
    told = history(archive, streams, start_ts=start, end_ts=options["end"], after=after)
    if not write(output, paced(told, options["speed"], options["skip_s"])) and not after:
        raise _nothing(archive, streams)


# To a hash, and to clients --------------------------------------------------------------------------------------------


def _hash(
    config: "Config",
    archive: "Archive",
    streams: "Sequence[StreamKey]",
    window: tuple[int | None, int | None],
    jobs: int | None,
) -> int:
    from lfmesh.cli.replay_hash import replay_hash

    found = replay_hash(config, archive, streams, window, jobs)
    if not found.messages and not found.snapshots:
        raise _nothing(archive, streams)
    click.echo(f"state hash: {found.state_hash}")
    counts = (f"streams: {found.streams}", f"messages: {found.messages}", f"snapshots: {found.snapshots}")
    click.echo("\n".join((*counts, f"trades: {found.trades}", f"holes: {found.holes}")))
    rate = found.messages / found.seconds
    click.echo(f"lfmesh: {found.seconds:.2f} s, {rate:,.0f} messages/s, {found.jobs} processes", err=True)
    return 0


def _serve(config: "Config", archive: "Archive", options: dict[str, Any]) -> int:
    from lfmesh.cli.serve_replay import ReplayOptions, serve
    from lfmesh.types import CHANNELS

    return serve(
        config,
        archive,
        ReplayOptions(
            port=options["port"],
            host=options["host"],
            products=options["products"] or (),
            channels=options["channels"] or CHANNELS,
            start_ts=options["start"],
            end_ts=options["end"],
            speed=options["speed"],
            start=options["begin"],
            loop=options["loop"],
            skip_gaps_s=options["skip_s"],
        ),
    )
