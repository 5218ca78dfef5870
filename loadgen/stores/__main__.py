"""`python -m loadgen.stores up|down`: the stores of a mesh, on this machine and without Docker.

`targets` is for those with Docker: it tells Prometheus where a mesh is.
"""

import sys
from pathlib import Path

import click
import msgspec

from lfmesh.errors import LfmeshError
from loadgen.stores import pair
from loadgen.stores.server import ServerFailed
from loadgen.stores.targets import targets

_folder = click.option(
    "--folder",
    default=".lfmesh/stores",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where data, logs and the list of what runs are kept.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Start and end DynamoDB Local and SeaweedFS (S3) on free loopback ports."""


@main.command()
@_folder
@click.option("--memory", is_flag=True, help="Tables are kept in memory alone.")
def up(folder: Path, memory: bool) -> None:
    """Start both, or find them running; print how to use them."""
    found = pair.up(folder, memory=memory)
    config = pair.configuration(folder)
    click.echo(f"# DynamoDB Local at {found.dynamodb.url}, S3 (SeaweedFS) at {found.s3.url}. Credentials:")
    click.echo(pair.environment_lines())
    click.echo(f"# Configuration, also in {config}:")
    click.echo(pair.config_lines(found))
    click.echo(f"# For example: lfmesh up --config {config}    To end them: make stores-down")


@main.command()
@_folder
@click.option("--forget", is_flag=True, help="Remove their data too.")
def down(folder: Path, forget: bool) -> None:
    """End both."""
    for line in pair.down(folder, forget=forget) or ["nothing runs"]:
        click.echo(line)


@main.command("targets")
def print_targets() -> None:
    """Read what `lfmesh top --json` prints; print it as targets for Prometheus."""
    try:
        found = targets(sys.stdin.buffer.read())
    except msgspec.DecodeError as error:
        raise ServerFailed(f"standard input is not what `lfmesh top --json` prints: {error}") from error
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except LfmeshError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
