"""`lfmesh store init`, `ls`, `verify`, `gc`, `rebuild`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lfmesh.cli.options import config_option, option, parse_channels, parse_products
from lfmesh.cli.store.units import parse_duration, parse_size


def _data_dir_option[F: Callable[..., Any]](command: F) -> F:
    return option(
        "--data-dir",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where a mesh keeps its data.  [default: mesh.data_dir, .lfmesh]",
    )(command)


def _products_option[F: Callable[..., Any]](command: F) -> F:
    return option(
        "--products", metavar="A,B,…", type=parse_products, help="Comma list of product ids.  [default: all there are]"
    )(command)


@click.group(short_help="Look after the stores: states and archive.")
def store() -> None:
    """Look after the stores: latest states (SQLite, DynamoDB) and archive (folder, S3).

    The section [store] of the configuration says where they are. Credentials come the usual AWS ways: environment,
    ~/.aws, role.
    """


@store.command(short_help="Make table, bucket or folder where they are missing.")
@_data_dir_option
@config_option
def init(data_dir: Path | None, config_path: Path | None) -> None:
    """Make the table, bucket or folder that the configuration names, where it is missing.

    Needs, beside what a mesh needs, the permissions dynamodb:CreateTable and s3:CreateBucket. Doing it twice is
    harmless.
    """
    from lfmesh.cli.options import effective_config
    from lfmesh.store import opening

    changes = {} if data_dir is None else {"mesh": {"data_dir": data_dir}}
    for line in opening.init(effective_config(config_path, changes)):
        click.echo(line)


@store.command(short_help="List what is stored.")
@option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["tape", "snapshots", "states"]),
    help="Only this kind; may be given several times.",
)
@_products_option
@option("--channels", metavar="LIST", type=parse_channels, help="A comma list.  [default: ticker,trades,book]")
@option("--json", "as_json", is_flag=True, help="One JSON document.")
@_data_dir_option
@config_option
def ls(**options: Any) -> None:  # noqa: ANN401 - the options above, by name
    """List what is stored: tape by product and channel, snapshots by shard, states by product and channel.

    Times are UTC: of the data (the venue's) and of the newest writing.
    """
    from lfmesh.cli.store import run

    run.show(options)


@store.command(short_help="Check that the archive is whole.")
@option("--quick", is_flag=True, help="Look at the names of objects alone, not into them.")
@option(
    "--threads",
    type=click.IntRange(1, 64),
    help="Objects that are read at once.  [default: 2, of S3 8]",
)
@_products_option
@option("--json", "as_json", is_flag=True, help="One JSON object a line: each finding, then the counts.")
@_data_dir_option
@config_option
def verify(**options: Any) -> int:  # noqa: ANN401
    """Check that the archive is whole: every object is what its name promises, and no stream has a hole.

    Every gap is told with its positions and times, every damaged object with its key. The exit code is 1 if there is
    any. What comes before the first position of a stream is no gap: there its archive begins, or retention has been.
    """
    from lfmesh.cli.store import run

    return run.check(options)


@store.command(short_help="Delete what is old, or too much.")
@option(
    "--max-age",
    "max_age_s",
    metavar="TIME",
    type=parse_duration,
    help="Delete what was written longer ago, such as 30d; 0: keep.  [default: archive.retention_age_s, 0]",
)
@option(
    "--max-size",
    "max_bytes",
    metavar="SIZE",
    type=parse_size,
    help="Delete the oldest until no more is left, such as 50GB; 0: no bound.  [default: archive.retention_bytes, 0]",
)
@option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@_data_dir_option
@config_option
def gc(**options: Any) -> None:  # noqa: ANN401
    """Delete what is older, or more, than the archive is to keep, and what states have left behind.

    The oldest goes first, of each stream its beginning, so that no stream gets a hole. The newest snapshot of each
    shard stays, and every state that the state store refers to.
    """
    from lfmesh.cli.store import run

    run.collect(options)


@store.command(short_help="Fill the state store from the archive alone.")
@option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@_data_dir_option
@config_option
def rebuild(**options: Any) -> None:  # noqa: ANN401
    """Fill the state store from the archive alone: from the newest snapshots, and the tape that follows them.

    For when the state store is lost. What it holds that is newer stays. SQLite files can be written only while no mesh
    uses them; a DynamoDB table at any time.
    """
    from lfmesh.cli.store import run

    run.refill(options)
